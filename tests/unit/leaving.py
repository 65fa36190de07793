"""Kernels that run without an owner, as a server that has ended leaves them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_session_store.kernels.outliving.folder import KernelFolder
from jupyter_session_store.kernels.outliving.kernel_process import ProcessMark
from jupyter_session_store.kernels.outliving.kernel_record import KernelRecord

#: A process of this number and start is not there.
ENDED = ProcessMark(2**22 - 1, 1)
CONNECTION = {
    "shell_port": 1,
    "iopub_port": 2,
    "stdin_port": 3,
    "control_port": 4,
    "hb_port": 5,
    "ip": "127.0.0.1",
    "key": "the key",
    "transport": "tcp",
    "signature_scheme": "hmac-sha256",
    "kernel_name": "python3",
}
_KERNEL = "import signal, sys, time\n{}\nprint('up', flush=True)\ntime.sleep(600)"


def write_connection(file: Path) -> None:
    """Write a connection file that is believed."""
    file.write_text(json.dumps(CONNECTION))
    file.chmod(0o600)


@contextmanager
def leaving(folder: Path, records: KernelFolder) -> Iterator[Callable[..., Any]]:
    """Yield a function that leaves a kernel with its record, and returns its process."""
    begun: list[subprocess.Popen[bytes]] = []

    def leave(
        kernel_id: str = "k", *, deaf: bool = False, lone: bool = False, **changes: Any
    ) -> subprocess.Popen[bytes]:
        file = folder / f"kernel-{kernel_id}.json"
        write_connection(file)
        code = _KERNEL.format("signal.signal(signal.SIGTERM, signal.SIG_IGN)" if deaf else "")
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(file)],
            stdout=subprocess.PIPE,
            start_new_session=not lone,
        )
        begun.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        record = KernelRecord(
            kernel_id=kernel_id,
            kernel_name="python3",
            namespace="tenant",
            place="8888:/",
            server_id="former",
            owner=ENDED,
            process=ProcessMark.of(process.pid),
            connection_file=str(file),
            cwd=None,
            owned_until=1000.0,
        )
        records.write(record.replace(**changes))
        return process

    yield leave
    for process in begun:
        process.kill()
        process.communicate()
