"""Kernels without an owner: which are adopted, when, which are ended, and which are left alone."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_session_store.kernels.authority import RecordedSession
from jupyter_session_store.kernels.outliving.adoption import FoundKernel, Search
from jupyter_session_store.kernels.outliving.folder import KernelFolder
from jupyter_session_store.kernels.outliving.kernel_lock import KernelLock
from jupyter_session_store.kernels.outliving.kernel_process import (
    HeldProcess,
    ProcessMark,
    end,
    find_by_argument,
    send_to_group,
)
from jupyter_session_store.kernels.outliving.manager import sessions_on
from tests.unit.leaving import CONNECTION, leaving, write_connection

LOG = logging.getLogger(__name__)
DAY = 86_400.0


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.moment = 1000.0

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> KernelFolder:
    folder = KernelFolder(tmp_path / "records" / "machine")
    folder.prepare()
    return folder


@pytest.fixture
def search(folder: KernelFolder, clock: Clock) -> Search:
    return Search(folder, "tenant", "8888:/", 90.0, 7.0, LOG, clock=clock)


@pytest.fixture
def leave(tmp_path: Path, folder: KernelFolder) -> Iterator[Callable[..., Any]]:
    with leaving(tmp_path, folder) as leave:
        yield leave


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process whose parent does not notice."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def ids(found: list[FoundKernel]) -> list[str]:
    for one in found:
        one.lock.release()
    return [one.record.kernel_id for one in found]


def files(folder: KernelFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir() if path.suffix != ".lock")


def test_what_its_place_left_is_found_at_once(search: Search, leave: Callable[..., Any]) -> None:
    process = leave()
    (found,) = search.find_at_start()
    assert found.process == ProcessMark.of(process.pid)
    assert found.connection["key"] == "the key"
    assert search.former_servers == {"former"}
    # It is owned now.
    assert search.find_at_start() == []
    assert ids([found]) == ["k"]


def test_what_another_place_left_is_left_to_it_for_a_lease(
    search: Search, leave: Callable[..., Any], clock: Clock
) -> None:
    leave(place="9999:/")
    assert search.find_at_start() == []
    assert search.find(is_at_place=False) == []
    clock.moment += 89
    assert search.find(is_at_place=False) == []
    clock.moment += 2
    assert ids(search.find(is_at_place=False)) == ["k"]


def test_who_comes_back_meanwhile_is_waited_for_anew(
    search: Search, leave: Callable[..., Any], clock: Clock, folder: KernelFolder
) -> None:
    leave(place="9999:/")
    assert search.find(is_at_place=False) == []
    clock.moment += 80
    record = folder.read("k")
    here = ProcessMark.of(os.getppid())
    assert here is not None
    folder.write(record.replace(owner=here))
    assert search.find(is_at_place=False) == []
    folder.write(record)
    clock.moment += 20
    assert search.find(is_at_place=False) == []
    clock.moment += 91
    assert ids(search.find(is_at_place=False)) == ["k"]


def test_another_namespace_is_another_tenant(
    search: Search, leave: Callable[..., Any], clock: Clock
) -> None:
    leave(namespace="other")
    assert search.find_at_start() == []
    clock.moment += DAY
    assert search.find(is_at_place=False) == []
    clock.moment += DAY
    assert search.find(is_at_place=False) == []
    assert search.count_foreign() == 1
    assert search.former_servers == set()


def test_what_a_living_server_owns_is_not_touched(
    search: Search, leave: Callable[..., Any], folder: KernelFolder, clock: Clock
) -> None:
    """By its lock, even if the record says that its owner has ended, and was so for years."""
    process = leave()
    lock = KernelLock.acquire(folder.lock_file("k"))
    assert lock is not None
    assert search.find_at_start() == []
    clock.moment += 1000 * DAY
    assert search.find(is_at_place=False) == []
    assert process.poll() is None
    assert files(folder) == ["k.json"]
    lock.release()


def test_a_kernel_that_ended_is_cleaned_up(
    search: Search,
    leave: Callable[..., Any],
    folder: KernelFolder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = leave()
    folder.log_file("k").write_text("said")
    kill(process)
    with caplog.at_level(logging.INFO):
        # A zombie has ended, too.
        assert search.find_at_start() == []
        assert search.find_at_start() == []
    assert caplog.text.count("The kernel k ended while it had no server.") == 1
    assert list(folder.path.iterdir()) == []
    assert not (tmp_path / "kernel-k.json").exists()
    assert search.former_servers == {"former"}


def test_what_was_launched_and_not_recorded_is_found_by_its_arguments(
    search: Search, leave: Callable[..., Any]
) -> None:
    process = leave(process=None)
    (found,) = search.find_at_start()
    assert found.process == ProcessMark.of(process.pid)
    found.lock.release()


def test_what_was_never_launched_is_cleaned_up(
    search: Search, leave: Callable[..., Any], folder: KernelFolder
) -> None:
    kill(leave(process=None))
    assert search.find_at_start() == []
    assert list(folder.path.iterdir()) == []


def test_who_only_names_the_file_is_no_kernel(
    search: Search, leave: Callable[..., Any], folder: KernelFolder
) -> None:
    """An editor, say: a kernel leads a session."""
    process = leave(process=None, lone=True)
    assert search.find_at_start() == []
    assert process.poll() is None
    assert list(folder.path.iterdir()) == []


def test_a_reused_number_is_not_signalled(
    search: Search, leave: Callable[..., Any], folder: KernelFolder, clock: Clock
) -> None:
    process = leave()
    record = folder.read("k")
    folder.write(record.replace(process=ProcessMark(process.pid, 1)))
    clock.moment += 1000 * DAY
    assert search.find(is_at_place=False) == []
    assert process.poll() is None
    assert files(folder) == []


@pytest.mark.parametrize("deaf", [False, True], ids=["heeds SIGTERM", "ignores SIGTERM"])
def test_who_has_no_server_for_days_is_ended(
    search: Search,
    leave: Callable[..., Any],
    folder: KernelFolder,
    clock: Clock,
    deaf: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = leave(deaf=deaf, namespace="whosever", place="anywhere")
    clock.moment += 7 * DAY
    assert search.find(is_at_place=False) == []
    assert process.poll() is None
    clock.moment += 1
    # A start ends nothing: that takes time.
    assert search.find_at_start() == []
    assert process.poll() is None
    assert search.find(is_at_place=False) == []
    assert process.wait(10) == -(signal.SIGKILL if deaf else signal.SIGTERM)
    assert "had no server for 7 days (detached_kernel_days)" in caplog.text
    assert files(folder) == []


def no_file(path: Path) -> None:
    path.unlink()


def no_json(path: Path) -> None:
    path.write_text("{")


def no_key(path: Path) -> None:
    path.write_text(json.dumps({**CONNECTION, "key": None}))


def no_port(path: Path) -> None:
    path.write_text(json.dumps({**CONNECTION, "hb_port": None}))


def writable(path: Path) -> None:
    path.chmod(0o666)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


@pytest.mark.parametrize("spoil", [writable, link])
def test_who_may_be_reached_by_others_is_left_alone(
    search: Search,
    leave: Callable[..., Any],
    folder: KernelFolder,
    clock: Clock,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its file is not believed; that is no reason to end it."""
    process = leave()
    spoil(tmp_path / "kernel-k.json")
    assert search.find_at_start() == []
    clock.moment += 91
    assert search.find(is_at_place=True) == []
    assert process.poll() is None
    assert caplog.text.count("The kernel k is left alone: its connection file is not to be") == 1
    assert files(folder) == ["k.json"]
    (tmp_path / "kernel-k.json").unlink()
    write_connection(tmp_path / "kernel-k.json")
    assert ids(search.find(is_at_place=True)) == ["k"]


def test_a_server_that_is_just_ending_is_waited_for(
    search: Search, leave: Callable[..., Any], folder: KernelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave()
    ending = subprocess.Popen(["sleep", "600"])
    owner = ProcessMark.of(ending.pid)
    assert owner is not None
    record = folder.read("k").replace(owner=owner)
    folder.write(record)
    # One that goes on is not waited for.
    monkeypatch.setattr(time, "sleep", lambda seconds: kill(ending))
    assert search.find_at_start() == []
    assert ending.poll() is None
    folder.write(record.replace(detached=True))
    assert ids(search.find_at_start()) == ["k"]
    ending.wait()


@pytest.mark.parametrize("spoil", [no_file, no_json, no_key, no_port])
def test_who_cannot_be_reached_any_more_is_ended_after_a_lease(
    search: Search,
    leave: Callable[..., Any],
    folder: KernelFolder,
    clock: Clock,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = leave()
    spoil(tmp_path / "kernel-k.json")
    assert search.find_at_start() == []
    assert search.find(is_at_place=False) == []
    assert process.poll() is None
    clock.moment += 91
    assert search.find(is_at_place=False) == []
    assert process.wait(10) == -signal.SIGTERM
    assert "nobody can reach it any more" in caplog.text
    assert "the key" not in caplog.text
    assert files(folder) == []


def no_answer(*_: object, **__: object) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize(
    ("module", "name", "recorded"),
    [
        ("kernel_process", "open", True),
        ("kernel_process.psutil.Process", "uids", True),
        ("kernel_process.psutil.Process", "cmdline", False),
        ("adoption", "read_connection", True),
    ],
)
def test_an_error_of_the_system_is_no_sign_that_a_kernel_has_ended(
    search: Search,
    leave: Callable[..., Any],
    folder: KernelFolder,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: str,
    name: str,
    recorded: bool,
) -> None:
    process = leave(**({} if recorded else {"process": None}))
    target = f"jupyter_session_store.kernels.outliving.{module}.{name}"
    with monkeypatch.context() as patch:
        patch.setattr(target, no_answer, raising=False)
        assert search.find_at_start() == []
        assert search.find(is_at_place=False) == []
        clock.moment += 91
        assert search.find(is_at_place=False) == []
    assert process.poll() is None
    assert files(folder) == ["k.json"]
    assert (tmp_path / "kernel-k.json").exists()
    assert caplog.text.count("The kernel k is left as it is; it is tried again") == 1
    assert ids(search.find_at_start()) == ["k"]


def test_a_record_that_is_none_is_left_alone_and_told_once(
    search: Search,
    leave: Callable[..., Any],
    folder: KernelFolder,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = leave()
    leave("well")
    path = folder.record_file("k")
    path.write_text(path.read_text()[:-10])
    assert ids(search.find_at_start()) == ["well"]
    clock.moment += 1000 * DAY
    search.find(is_at_place=False)
    assert caplog.text.count(f"The kernel record {path} is left alone: it is cut off") == 1
    assert process.poll() is None
    assert path.exists()


def test_a_clock_that_was_set_changes_nothing(
    search: Search, leave: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert ids(search.find_at_start()) == ["k"]


def test_a_session_on_two_kernels_is_on_that_of_its_later_version(
    search: Search, leave: Callable[..., Any]
) -> None:
    def session(version: int, path: str) -> RecordedSession:
        return RecordedSession("s", path, "", "notebook", "2026-01-02T03:04:05+00:00", version)

    leave("a", sessions=(session(2, "new"),))
    leave("b", sessions=(session(1, "old"),))
    found = search.find_at_start()
    assert sessions_on(found) == sessions_on(found[::-1]) == ((session(2, "new"), "a", "python3"),)
    ids(found)


def test_a_held_process_is_as_a_child(leave: Callable[..., Any]) -> None:
    process = leave()
    mark = ProcessMark.of(process.pid)
    assert mark is not None
    held = HeldProcess(mark)
    assert (held.pid, held.poll(), held.stdout) == (process.pid, None, None)
    with pytest.raises(subprocess.TimeoutExpired):
        held.wait(0.01)
    held.terminate()
    assert held.wait(10) == held.poll() == held.returncode
    # Not waited for by its parent yet.
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    for send in (held.kill, held.terminate, lambda: held.send_signal(signal.SIGINT)):
        with pytest.raises(ProcessLookupError):
            send()
    with pytest.raises(ProcessLookupError):
        send_to_group(held, signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        HeldProcess(mark)
    assert not mark.is_alive


def test_without_a_descriptor_it_is_the_same(
    leave: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    test_a_held_process_is_as_a_child(leave)


def test_on_another_system_it_is_the_same(
    leave: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "jupyter_session_store.kernels.outliving.kernel_process"
    monkeypatch.setattr(f"{module}._IS_LINUX", False)
    monkeypatch.delattr(os, "pidfd_open")
    test_a_held_process_is_as_a_child(leave)
    process = leave("other")
    mark = ProcessMark.of(process.pid)
    assert mark is not None
    assert mark == ProcessMark.of(process.pid)
    assert mark.is_own


def test_the_group_is_not_signalled_when_its_leader_has_ended() -> None:
    """What the kernel has started goes on, and the number may be another's by now."""
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; exec sleep 600"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert leader.stdout is not None
    child = psutil.Process(int(leader.stdout.readline()))
    mark = ProcessMark.of(leader.pid)
    assert mark is not None
    held = HeldProcess(mark)
    try:
        leader.kill()
        held.wait(10)
        with pytest.raises(ProcessLookupError):
            send_to_group(held, signal.SIGKILL)
        assert child.is_running()
    finally:
        child.kill()
        leader.communicate()


def test_an_end_takes_what_the_kernel_has_started_along() -> None:
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    child = psutil.Process(int(leader.stdout.readline()))
    mark = ProcessMark.of(leader.pid)
    assert mark is not None
    assert end(mark, patience=10)
    leader.communicate()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    # Once more is no error.
    assert end(mark, patience=10)


def test_a_process_is_found_by_its_arguments(leave: Callable[..., Any], tmp_path: Path) -> None:
    process = leave()
    assert find_by_argument(str(tmp_path / "kernel-k.json")) == ProcessMark.of(process.pid)
    assert find_by_argument(str(tmp_path / "kernel-other.json")) is None
