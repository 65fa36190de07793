"""A Jupyter process with folders of its own, all gone at the end, however the run ends."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import uuid4

import httpx
import psutil

from .. import shared_clients
from ..databases import keeper
from ..databases.local import claimed_port
from ..forking import USABLE, Forked, forker

#: Seconds. Far above what anything here takes: who reaches them hangs.
PATIENCE: Final = 120.0

#: The one builds a parser of IRIs when it is imported, which takes most of a server's start; the
#: other is what debugs in a kernel, and takes a part of a kernel's. Both are optional, and unused.
_SLOW_TO_IMPORT: Final = ("rfc3987_syntax", "debugpy")

#: What a test may start beside ``python3``: the same kernel under another name.
OTHER_KERNEL: Final = "other"


class JupyterProcess:
    """A program of Jupyter's, reached over HTTP.

    Its port, its folders and its token stay the same from :meth:`start` to :meth:`start`.

    Parameters
    ----------
    config : str
        The text of its configuration file.
    environment : mapping
        On top of a clean environment.
    arguments : sequence of str
        Of the command line.
    prefix : sequence of str
        What runs the command.
    token : str, optional
        What a client authenticates by; one of its own if not given.
    fork : bool
        Whether it may be forked from a process that has imported it, and more, already.
    """

    MODULE: ClassVar[str]
    CONFIG_FILE: ClassVar[str]
    #: Whether the process that forks imports it.
    FORKED: ClassVar[bool] = False
    #: Whether its interpreter takes itself apart at its end, also where it was forked.
    whole: bool = False
    #: How many connections a client keeps for its next requests.
    KEPT: ClassVar[int] = 200

    def __init__(
        self,
        config: str = "",
        *,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
        token: str | None = None,
        fork: bool = True,
    ) -> None:
        self.token = token or uuid4().hex
        self._claim = claimed_port()
        self.port: int = self._claim.getsockname()[1]
        self.directory = Path(tempfile.mkdtemp(prefix="jss-system-", dir="/tmp"))
        # It ends the process and removes the folder even if this process is killed.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, str(self.directory)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._environment = dict(environment or {})
        self._arguments = list(arguments)
        self._prefix = list(prefix)
        self._fork = fork
        self.data_dir = self._folder("data")
        self._folder("config")
        self._folder("home")
        self.configure(config)
        self._add_kernel_specification()
        self._folder("modules")
        self._replaced_modules = False
        for name in _SLOW_TO_IMPORT:
            self.add_module(name, "raise ImportError(__name__)")
        # The process that forks misses the one too, and does not look for the other.
        self._replaced_modules = False
        self.api = self._client()

    def configure(self, config: str) -> None:
        """Write the configuration file, for the next :meth:`start`."""
        path = self.directory / "config" / self.CONFIG_FILE
        path.write_text(f"c = get_config()\n{self.base_config()}\n{config}\n")

    def add_module(self, name: str, text: str) -> None:
        """Add a Python module, which wins over an installed one."""
        (self.directory / "modules" / f"{name}.py").write_text(text)
        # One of a new name is found by a process that was forked, too; no other is.
        new = name != "sitecustomize" and importlib.util.find_spec(name) is None
        self._replaced_modules = self._replaced_modules or not new

    def base_config(self) -> str:
        """Return what the configuration file of every test begins with."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has printed."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self) -> list[str]:
        """Return what is run."""
        return [*self._prefix, sys.executable, "-m", self.MODULE, *self._arguments]

    def launch(self) -> None:
        """Start the process, and wait for nothing."""
        command, home = self.command(), self.directory / "home"
        environment = self._clean_environment() | self._environment
        with open(self.directory / "log", "ab") as log:
            if self._can_fork():
                self._process = forker().fork(
                    command[1:],
                    cwd=home,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    whole=self.whole,
                )
            else:
                self._process = subprocess.Popen(
                    command,
                    cwd=home,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for pytest alone
                )
        self._tell_keeper(f"{self._process.pid} {signal.SIGTERM.value}")

    def _can_fork(self) -> bool:
        """Return whether a process that has imported the program already would do the same."""
        # What the interpreter or the system's loader would read was read when that one started.
        of_a_start = any(name.startswith(("PYTHON", "LD_")) for name in self._environment)
        changed = self._prefix or of_a_start or self._replaced_modules
        return USABLE and self.FORKED and self._fork and not changed

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until the process that was launched answers."""
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                raise AssertionError(f"It ended instead of starting:\n{self.log}")
            assert time.monotonic() < deadline, f"It does not answer:\n{self.log}"
            time.sleep(0.05)
        assert "Exception while loading config file" not in self.log, self.log

    def exit_code(self) -> int:
        """Wait until the process ends by itself, and return how it ended."""
        assert self._process is not None
        code = self._process.wait(PATIENCE)
        self._tell_keeper("")
        return code

    def stop(self) -> None:
        """End the process in order, and check that it ends so, and soon."""
        assert self._process is not None
        kernels = self.kernel_processes()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self.exit_code()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"It does not end at SIGTERM:\n{self.log}") from None
        assert code == 0, self.log
        _, alive = psutil.wait_procs(kernels, timeout=PATIENCE)
        assert not alive, "kernels outlived an orderly stop"
        self._process = None

    def kill(self) -> None:
        """End the process with SIGKILL; its kernels notice, and end too."""
        if self._process is None:
            return
        kernels = self.kernel_processes()
        self._process.kill()
        self._process.wait()
        self._tell_keeper("")
        for kernel in kernels:
            # It may have noticed before.
            with suppress(psutil.NoSuchProcess):
                kernel.kill()
        psutil.wait_procs(kernels, timeout=PATIENCE)
        self._process = None

    def close(self) -> None:
        """End what still runs, and remove the folder."""
        self.api.close()
        self.kill()
        self._keeper.communicate()
        self._claim.close()

    def kernel_processes(self) -> list[psutil.Process]:
        """Return the processes of the kernels, without those that a kernel has begun itself.

        Such a one has the kernel's command until it has got one of its own.
        """
        kernels: dict[int, psutil.Process] = {}
        try:
            for child in psutil.Process(self.pid).children(recursive=True):
                try:
                    running = child.status() != psutil.STATUS_ZOMBIE
                    named = "ipykernel_launcher" in " ".join(child.cmdline())
                    if running and named and child.ppid() not in kernels:
                        kernels[child.pid] = child
                except psutil.NoSuchProcess:
                    continue
        except psutil.NoSuchProcess:
            pass
        return list(kernels.values())

    def _client(self) -> httpx.Client:
        shared_clients.mend()
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"token {self.token}"},
            timeout=PATIENCE,
            trust_env=False,
            # What it would check takes ten times as long to load as all else here.
            verify=False,
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=self.KEPT),
        )

    def _answers(self) -> bool:
        try:
            return self.api.get("/api", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _folder(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir()
        return path

    def _clean_environment(self) -> dict[str, str]:
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JSS_"))}
        home = str(self.directory / "home")
        modules = [str(self.directory / "modules"), outside.get("PYTHONPATH")]
        return {
            **outside,
            "HOME": home,
            "IPYTHONDIR": home,
            "JUPYTER_CONFIG_DIR": str(self.directory / "config"),
            "JUPYTER_DATA_DIR": str(self.data_dir),
            "JUPYTER_RUNTIME_DIR": str(self.directory / "runtime"),
            "PYTHONPATH": os.pathsep.join(filter(None, modules)),
            "PYTHONUNBUFFERED": "1",
        }

    def _add_kernel_specification(self) -> None:
        folder = self.data_dir / "kernels" / OTHER_KERNEL
        folder.mkdir(parents=True)
        specification: dict[str, Any] = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "Another Python",
            "language": "python",
        }
        (folder / "kernel.json").write_text(json.dumps(specification))

    def _tell_keeper(self, line: str) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{line}\n".encode())
        self._keeper.stdin.flush()
