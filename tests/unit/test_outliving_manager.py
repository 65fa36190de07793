"""The kernel manager of kernels that outlive their server: what it owns, starts and refuses."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_server.services.contents.manager import AsyncContentsManager

from jupyter_session_store import PersistentSessionManager
from jupyter_session_store.kernels.authority import RecordedSession
from jupyter_session_store.kernels.outliving.adoption import FoundKernel, Search, read_connection
from jupyter_session_store.kernels.outliving.folder import KernelFolder
from jupyter_session_store.kernels.outliving.kernel_lock import KernelLock
from jupyter_session_store.kernels.outliving.kernel_record import BadRecord, KernelRecord
from jupyter_session_store.kernels.outliving.manager import place_of
from jupyter_session_store.local import PersistentKernelManager
from tests.unit.dummies import in_memory, make_manager
from tests.unit.leaving import CONNECTION, ENDED, leaving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelFolder:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    folder = KernelFolder.of_this_machine()
    folder.prepare()
    return folder


@pytest.fixture
def left(tmp_path: Path, folder: KernelFolder) -> Iterator[KernelRecord]:
    """The record of a running kernel that nobody owns: of another place, so not at the start."""
    with leaving(tmp_path, folder) as leave:
        leave(place="another", owned_until=10.0**12)
        yield folder.read("k")


def take(folder: KernelFolder, record: KernelRecord) -> FoundKernel:
    lock = KernelLock.acquire(folder.lock_file(record.kernel_id))
    assert lock is not None
    assert record.process is not None
    return FoundKernel(record, lock, record.process, read_connection(record))


@pytest.fixture
def new_manager(folder: KernelFolder) -> Iterator[Callable[[], Any]]:
    """A function that makes a kernel manager, whose sockets are closed after the test."""
    made: list[PersistentKernelManager] = []

    def new_manager() -> PersistentKernelManager:
        made.append(PersistentKernelManager(log=logging.getLogger(__name__)))
        return made[-1]

    yield new_manager
    for manager in made:
        if manager._maintenance is not None:
            manager._maintenance.stop()
        manager.context.destroy(linger=0)


@pytest.fixture
def begin(new_manager: Callable[[], Any]) -> Callable[[], Any]:
    """A function that makes a kernel manager which records its kernels."""

    def begin() -> Any:
        manager = new_manager()
        manager.begin_records("tenant", "this", 90.0, lambda _: None)
        return manager

    return begin


def fail(*_: object) -> Any:
    raise OSError("no more files")


async def test_who_cannot_hold_a_kernel_does_not_take_the_way_to_it_along(
    folder: KernelFolder,
    left: KernelRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    begin: Callable[[], Any],
) -> None:
    # A record of what is logged would keep the object alive.
    caplog.set_level(logging.CRITICAL + 1, __name__)
    manager = begin()
    module = "jupyter_session_store.kernels.outliving.provisioner"
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.HeldProcess", fail)
        manager._adopt([take(folder, left)])
    gc.collect()
    assert manager.list_kernel_ids() == []
    assert read_connection(left)
    manager._adopt([take(folder, left)])
    assert manager.list_kernel_ids() == ["k"]


async def test_the_way_to_a_kernel_stays_while_it_runs(
    folder: KernelFolder, left: KernelRecord, begin: Callable[[], Any]
) -> None:
    """Jupyter Client removes it whenever a kernel's manager is collected."""
    manager = begin()
    manager._adopt([take(folder, left)])
    kernel = manager.get_kernel("k")
    kernel.cleanup_connection_file()
    assert read_connection(left) == CONNECTION
    os.kill(kernel.provisioner.process.pid, signal.SIGKILL)
    kernel.provisioner.process.wait()
    kernel.cleanup_connection_file()
    with pytest.raises(BadRecord, match="its connection file is gone"):
        read_connection(left)


@pytest.mark.parametrize("pending", [False, True])
async def test_a_kernel_that_is_not_installed_is_refused_as_jupyter_server_does(
    folder: KernelFolder, pending: bool, begin: Callable[[], Any]
) -> None:
    manager = begin()
    manager.use_pending_kernels = pending
    if not pending:
        with pytest.raises(NoSuchKernel):
            await manager.start_kernel(kernel_name="none of this name")
        return
    kernel_id = await manager.start_kernel(kernel_name="none of this name")
    ready: Any = manager.get_kernel(kernel_id).ready
    with pytest.raises(NoSuchKernel):
        await ready


async def test_no_kernel_is_started_under_the_id_of_one_that_runs_without_a_server(
    folder: KernelFolder, left: KernelRecord, begin: Callable[[], Any]
) -> None:
    """Its connection file would be another kernel's, and nobody could reach it any more."""
    manager = begin()
    with pytest.raises(DuplicateKernelError):
        await manager.start_kernel(kernel_id="k")
    assert read_connection(left) == CONNECTION
    assert folder.read("k") == left
    folder.write(left.replace(process=ENDED))
    # None runs under it any more.
    assert await manager.start_kernel(kernel_id="k") == "k"
    await manager.shutdown_kernel("k", now=True)


async def test_a_kernel_that_was_started_meanwhile_is_not_replaced(
    folder: KernelFolder, left: KernelRecord, begin: Callable[[], Any]
) -> None:
    manager = begin()
    manager._adopt([take(folder, left)])
    here = manager.get_kernel("k")
    folder.lock_file("k").unlink()
    manager._adopt([take(folder, left)])
    assert manager.get_kernel("k") is here
    take(folder, left).lock.release()


def session(session_id: str, version: int = 1) -> RecordedSession:
    created_at = "2026-01-02T03:04:05+00:00"
    return RecordedSession(session_id, "a.ipynb", "a", "notebook", created_at, version)


async def test_a_record_has_all_its_sessions_while_they_are_taken_over(
    folder: KernelFolder,
    left: KernelRecord,
    monkeypatch: pytest.MonkeyPatch,
    new_manager: Callable[[], Any],
) -> None:
    """A crash meanwhile would lose those that are not in memory yet."""
    both = (session("one"), session("two"))
    folder.write(left.replace(place=place_of(None), sessions=both))
    written: list[set[str]] = []
    write = KernelFolder.write

    def note(self: KernelFolder, record: KernelRecord) -> None:
        written.append({one.session_id for one in record.sessions})
        write(self, record)

    monkeypatch.setattr(KernelFolder, "write", note)
    sessions = make_manager(kernels=new_manager(), namespace="tenant")
    assert {one.session_id for one in in_memory(sessions)} == {"one", "two"}
    assert written
    assert all(one == {"one", "two"} for one in written), written
    sessions.close()


async def test_a_session_that_has_left_a_kernel_is_not_recorded_there_any_more(
    folder: KernelFolder, left: KernelRecord, begin: Callable[[], Any]
) -> None:
    """After a crash amid its move; else it would come back when the other kernel has ended."""
    manager = begin()
    now = left.replace(sessions=(session("s", 2),))
    folder.write(left.replace(kernel_id="before", sessions=(session("s"),)))
    before = folder.read("before")
    manager._adopt([take(folder, before), take(folder, now)])
    assert folder.read("before").sessions == ()
    assert folder.read("k").sessions == now.sessions


async def test_an_adopted_kernel_is_restarted_in_the_environment_that_it_was_started_in(
    folder: KernelFolder, left: KernelRecord, new_manager: Callable[[], Any]
) -> None:
    """What makes it may be an override, of a class whose constructor goes on after ours."""

    class Sessions(PersistentSessionManager):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.greeting = "hello"

        def get_kernel_env(self, path: Any, name: Any = None) -> dict[str, str]:
            return {**super().get_kernel_env(path, name), "GREETING": self.greeting}

    folder.write(left.replace(place=place_of(None), sessions=(session("s"),)))
    kernels = new_manager()
    sessions = Sessions(
        kernel_manager=kernels,
        contents_manager=AsyncContentsManager(),
        database_filepath=":memory:",
        namespace="tenant",
    )
    assert len(in_memory(sessions)) == 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    environment = kernels.get_kernel("k")._launch_args["env"]
    assert environment["GREETING"] == "hello"
    assert (
        environment["JPY_SESSION_NAME"]
        == sessions.get_kernel_env("a.ipynb", "a")["JPY_SESSION_NAME"]
    )
    sessions.close()


async def test_who_shares_the_kernels_may_end_first(
    folder: KernelFolder, left: KernelRecord, new_manager: Callable[[], Any], tmp_path: Path
) -> None:
    """What one session manager does is recorded, though another came later and is gone."""
    folder.write(left.replace(place=place_of(None), sessions=(session("one"),)))
    how: dict[str, Any] = {
        "kernels": new_manager(),
        "namespace": "tenant",
        "url": str(tmp_path / "sessions.db"),
    }
    first, second = make_manager(**how), make_manager(**how)
    second.close()
    del second
    gc.collect()
    await first.update_session("one", path="renamed")
    await first.save_session("two", path="b.ipynb", name="", type="notebook", kernel_id="k")
    recorded = {one.session_id: one.path for one in folder.read("k").sessions}
    assert recorded == {"one": "renamed", "two": "b.ipynb"}
    first.close()


async def test_another_namespace_is_not_recorded(
    folder: KernelFolder, left: KernelRecord, new_manager: Callable[[], Any]
) -> None:
    folder.write(left.replace(place=place_of(None), sessions=(session("one"),)))
    kernels = new_manager()
    first = make_manager(kernels=kernels, namespace="tenant")
    second = make_manager(kernels=kernels, namespace="another")
    await second.save_session("two", path="b.ipynb", name="", type="notebook", kernel_id="k")
    assert [one.session_id for one in folder.read("k").sessions] == ["one"]
    for manager in (first, second):
        manager.close()


async def test_one_look_for_kernels_at_a_time(
    folder: KernelFolder, monkeypatch: pytest.MonkeyPatch, begin: Callable[[], Any]
) -> None:
    """While a kernel that does not end is waited for, the next look is due."""
    manager = begin()
    kept_up: list[int] = []
    monkeypatch.setattr(manager._owned, "maintain", lambda: kept_up.append(1))
    looks: list[int] = []
    go_on = threading.Event()

    def find(self: Search, *_: object, **__: object) -> list[FoundKernel]:
        looks.append(1)
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(Search, "find", find)
    first = asyncio.ensure_future(manager._maintain())
    second = asyncio.ensure_future(manager._maintain())
    done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    assert done == {second}
    go_on.set()
    await first
    assert len(looks) == 1
    # What it owns already does not wait for that.
    assert len(kept_up) >= 2
    await manager._maintain()
    assert len(looks) == 2


async def test_a_stop_goes_on_if_a_kernel_cannot_be_shut_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begin: Callable[[], Any]
) -> None:
    manager = begin()
    ended: list[str] = []

    async def shut_down(kernel_id: str, now: bool = False) -> None:
        if kernel_id == "one":
            raise OSError("it does not end")
        await asyncio.sleep(0)
        ended.append(kernel_id)

    manager._kernels.update({"one": object(), "two": object()})
    monkeypatch.setattr(manager, "shutdown_kernel", shut_down)
    await manager.shutdown_all()
    assert ended == ["two"]
    assert "The kernel one could not be shut down: it does not end" in caplog.text


def test_locks_that_keep_nobody_out_are_not_trusted(
    folder: KernelFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    begin: Callable[[], Any],
) -> None:
    """A file system may grant every one of them."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    manager = begin()
    assert manager._owned is None
    assert "its locks cannot be trusted" in caplog.text
