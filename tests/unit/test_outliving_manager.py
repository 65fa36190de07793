"""The kernel manager of kernels that outlive their server: what it owns, starts and refuses."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError

from jupyter_session_store.kernels.outliving.adoption import FoundKernel, read_connection
from jupyter_session_store.kernels.outliving.folder import KernelFolder
from jupyter_session_store.kernels.outliving.kernel_lock import KernelLock
from jupyter_session_store.kernels.outliving.kernel_process import ProcessMark
from jupyter_session_store.kernels.outliving.kernel_record import KernelRecord
from jupyter_session_store.local import PersistentKernelManager

ENDED = ProcessMark(2**22 - 1, 1)
CONNECTION = {
    **dict.fromkeys(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"), 1),
    "ip": "127.0.0.1",
    "key": "the key",
    "transport": "tcp",
    "signature_scheme": "hmac-sha256",
    "kernel_name": "python3",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelFolder:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    folder = KernelFolder.of_this_machine()
    folder.prepare()
    return folder


@pytest.fixture
def left(tmp_path: Path, folder: KernelFolder) -> Iterator[KernelRecord]:
    """The record of a running kernel that nobody owns: of another place, so not at the start."""
    file = tmp_path / "kernel-k.json"
    file.write_text(json.dumps(CONNECTION))
    file.chmod(0o600)
    code = "import time\nprint('up', flush=True)\ntime.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        record = KernelRecord(
            kernel_id="k",
            kernel_name="python3",
            namespace="tenant",
            place="another",
            server_id="former",
            owner=ENDED,
            process=ProcessMark.of(process.pid),
            connection_file=str(file),
            cwd=None,
            owned_until=10.0**12,
        )
        folder.write(record)
        yield record
        process.kill()


def take(folder: KernelFolder, record: KernelRecord) -> FoundKernel:
    lock = KernelLock.acquire(folder.lock_file(record.kernel_id))
    assert lock is not None
    assert record.process is not None
    return FoundKernel(record, lock, record.process, read_connection(record))


def begin() -> PersistentKernelManager:
    manager = PersistentKernelManager(log=logging.getLogger(__name__))
    manager.begin_records("tenant", "this", 90.0, lambda _: None)
    return manager


def fail(*_: object) -> Any:
    raise OSError("no more files")


async def test_who_cannot_hold_a_kernel_does_not_take_the_way_to_it_along(
    folder: KernelFolder,
    left: KernelRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
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


@pytest.mark.parametrize("pending", [False, True])
async def test_a_kernel_that_is_not_installed_is_refused_as_jupyter_server_does(
    folder: KernelFolder, pending: bool
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
    folder: KernelFolder, left: KernelRecord
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
    await manager.shutdown_kernel("k", now=True)  # type: ignore[no-untyped-call]


async def test_a_kernel_that_was_started_meanwhile_is_not_replaced(
    folder: KernelFolder, left: KernelRecord
) -> None:
    manager = begin()
    manager._adopt([take(folder, left)])
    here = manager.get_kernel("k")
    folder.lock_file("k").unlink()
    manager._adopt([take(folder, left)])
    assert manager.get_kernel("k") is here
    take(folder, left).lock.release()
