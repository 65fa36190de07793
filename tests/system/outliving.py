"""A server whose kernels outlive it, and what is seen of them from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from jupyter_session_store.kernels.outliving.folder import KernelFolder

from .parity import LIGHT_KERNEL
from .process import PATIENCE
from .server import JupyterServer

CONFIG: Final = (
    'c.ServerApp.kernel_manager_class = "jupyter_session_store.local.PersistentKernelManager"\n'
)
#: A kernel of another language, from PyPI.
BASH: Final = "bash"
#: A kernel's process that nobody talks to, and that outlives its server: it ends at a signal, and
#: by itself when its connection file is gone, as it is after a test.
_LIGHT_ARGV: Final = (
    "/bin/sh",
    "-c",
    'while [ -e "$1" ]; do sleep 2; done',
    "ipykernel_launcher",
    "{connection_file}",
)


def _shut_down(server: OutlivingServer) -> None:
    assert server.api.post("/api/shutdown").status_code in (200, 204)


def _by(number: signal.Signals) -> Callable[[OutlivingServer], None]:
    return lambda server: os.kill(server.pid, number)


#: How a server ends. SIGINT asks on a terminal, and ends where there is none; SIGABRT is what a
#: crash inside ends with.
ENDS: Final[dict[str, Callable[[OutlivingServer], None]]] = {
    "SIGKILL": _by(signal.SIGKILL),
    "SIGTERM": _by(signal.SIGTERM),
    "SIGINT": _by(signal.SIGINT),
    "SIGHUP": _by(signal.SIGHUP),
    "/api/shutdown": _shut_down,
    "SIGABRT": _by(signal.SIGABRT),
}


class OutlivingServer(JupyterServer):
    """A server whose kernels go on when it ends, until :meth:`close`.

    Parameters
    ----------
    config, how
        As :class:`.JupyterServer` has them.
    runtime : Path, optional
        Jupyter's runtime folder, if it is one that servers share.
    """

    #: What is collected then must not take the way to a kernel along.
    whole = True

    def __init__(self, config: str = "", *, runtime: Path | None = None, **how: Any) -> None:
        self._runtime = runtime
        super().__init__(config, **how)

    @property
    def runtime(self) -> Path:
        """Jupyter's runtime folder."""
        return self._runtime or self.directory / "runtime"

    def _clean_environment(self) -> dict[str, str]:
        return super()._clean_environment() | {"JUPYTER_RUNTIME_DIR": str(self.runtime)}

    def base_config(self) -> str:
        """Return the settings of a server whose kernels outlive it."""
        return super().base_config() + CONFIG

    def end(self, how: str) -> None:
        """End the server in one of the ways of :data:`ENDS`, and wait until it has ended."""
        process = self._process
        assert process is not None
        ENDS[how](self)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"It does not end at {how}:\n{self.log}") from None
        self._tell_keeper("")
        self._process = None

    def kill(self) -> None:
        """End the server with SIGKILL; its kernels go on."""
        if self._process is not None and self._process.poll() is None:
            self.end("SIGKILL")

    def restart(self, how: str = "SIGKILL") -> None:
        """End the server, and start it again."""
        self.end(how)
        self.start()

    def close(self) -> None:
        """End everything."""
        self.kill()
        for process in self.all_kernel_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(PATIENCE)
        super().close()

    def all_kernel_processes(self) -> list[psutil.Process]:
        """Return the processes of kernels that this server or an earlier one has started."""
        # Of their connection files.
        return list(processes_with(str(self.runtime / "kernel-")))

    @property
    def records(self) -> Path:
        """The folder of the kernel records."""
        (folder,) = (self.runtime / "session-store-kernels").iterdir()
        return folder

    def record(self, kernel_id: str) -> dict[str, Any]:
        """Return the record of a kernel."""
        found: dict[str, Any] = json.loads(KernelFolder(self.records).read(kernel_id).to_json())
        return found

    def change_record(self, kernel_id: str, **changes: Any) -> None:
        """Write a record anew, with changes."""
        path = self.records / f"{kernel_id}.json"
        path.write_text(json.dumps(self.record(kernel_id) | changes))

    def process_of(self, kernel_id: str) -> psutil.Process:
        """Return the process of a kernel."""
        return psutil.Process(self.record(kernel_id)["process"][0])

    def add_bash(self) -> None:
        """Add the specification of a kernel of another language."""
        argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
        self.add_kernel(BASH, argv, display_name="Bash", language="bash", env={"PS1": "$"})

    def add_light_kernel(self, name: str = LIGHT_KERNEL, **fields: Any) -> None:
        """Add the specification of a kernel that is light, and outlives its server."""
        self.add_kernel(name, _LIGHT_ARGV, **fields)

    def add_kernel(self, name: str, argv: Sequence[str], **fields: Any) -> None:
        """Add the specification of a kernel."""
        folder = self.data_dir / "kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        specification = {"argv": list(argv), "display_name": name, "language": "none", **fields}
        (folder / "kernel.json").write_text(json.dumps(specification))


def has_ended(process: psutil.Process) -> bool:
    """Return whether a process has ended, be it that its parent has not noticed."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def processes_with(argument: str) -> Iterator[psutil.Process]:
    """Return the leaders of sessions whose arguments hold a text."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            named = any(argument in one for one in process.cmdline())
            if named and os.getsid(process.pid) == process.pid:
                yield process
