"""Temporary instances of the server programs on this machine."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import psutil

from . import keeper
from .server import Instance, NoDatabase, new_password

#: Where server programs lie that are not in PATH.
FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/sbin",
    "/usr/libexec",
    "/usr/local/sbin",
    "/opt/homebrew/opt/{postgresql,mariadb,mysql}*/bin",
    "/usr/local/opt/{postgresql,mariadb,mysql}*/bin",
    "/home/linuxbrew/.linuxbrew/opt/{postgresql,mariadb,mysql}*/bin",
)

_ATTEMPTS = 5


def find_program(*names: str) -> Path:
    """Return the first of some programs that is on this machine.

    Raises
    ------
    NoDatabase
        If none is.
    """
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    for pattern in FOLDERS:
        folders += sorted(_glob(pattern), key=_version, reverse=True)
    for name in names:
        for folder in folders:
            if os.access(folder / name, os.X_OK):
                return (folder / name).resolve()
    raise NoDatabase(f"{' or '.join(names)} is neither in PATH nor in a usual folder")


def _glob(pattern: str) -> Iterable[Path]:
    braces = re.search(r"\{(.*)\}", pattern)
    choices = braces[1].split(",") if braces else [""]
    for choice in choices:
        one = pattern.replace(braces[0], choice) if braces else pattern
        yield from Path("/").glob(one[1:])


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens, and that nobody has claimed by UDP.

    Below the range from which systems take the ports of outgoing connections: one of
    these must not be in the way of a server that starts again on its port.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with (
            socket.socket() as probe,
            socket.socket(type=socket.SOCK_DGRAM) as claim,
            contextlib.suppress(OSError),
        ):
            probe.bind(("127.0.0.1", port))
            claim.bind(("127.0.0.1", port))
            return port


def claimed_port() -> socket.socket:
    """Return a UDP socket on a port that is free, for whoever wants to listen there by TCP.

    From now until it listens, and while it is down, nothing but this keeps the other processes
    of the tests from choosing the same.
    """
    while True:
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", free_port()))
        except OSError:
            claim.close()
        else:
            return claim


class _Template:
    """A data directory that no server has used, to be copied; gone with this process.

    Parameters
    ----------
    data : Path
        What is kept.
    password : str
        May be in it.
    """

    def __init__(self, data: Path, password: str) -> None:
        self.password = password
        folder = Path(tempfile.mkdtemp(prefix="jss-", dir="/tmp"))
        folder.chmod(0o755)
        self._data = folder / "data"
        atexit.register(_start_keeper(folder).communicate)
        copy_data(data, self._data)

    def copy_to(self, data: Path) -> None:
        """Make a data directory."""
        copy_data(self._data, data)


def copy_data(source: Path, target: Path) -> None:
    """Copy a data directory."""
    # With the owner, and many times as fast as the programs make another.
    subprocess.run(["cp", "-Rp", source, target], check=True)


def _start_keeper(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


class LocalInstance(Instance):
    """A server process with a directory of its own, both gone at the end.

    Raises
    ------
    NoDatabase
        If the programs are missing, or do not come up.
    """

    #: What ends the server in order, with its clients connected.
    STOP: ClassVar[signal.Signals] = signal.SIGTERM
    #: What ends it at once, with nothing of it left outside its directory.
    END: ClassVar[signal.Signals] = signal.SIGKILL
    #: Of each class, once one of it has been started.
    _templates: ClassVar[dict[type, _Template]] = {}

    def __init__(self, kind: str) -> None:
        self.find_programs()
        self._process: subprocess.Popen[bytes] | None = None
        # While the server is stopped, too.
        self._claim = socket.socket(type=socket.SOCK_DGRAM)
        self.password = new_password()
        # Not TMPDIR: the path of a Unix socket has at most 103 characters.
        self.directory = Path(tempfile.mkdtemp(prefix="jss-", dir="/tmp"))
        self._keeper = _start_keeper(self.directory)
        try:
            self._user = self._step_down()
            self._initialise_or_copy()
            self.prepare()
            for attempt in range(1, _ATTEMPTS + 1):
                self._claim.close()
                self._claim = claimed_port()
                self.port = self._claim.getsockname()[1]
                super().__init__(
                    kind, "jss", self.password, "127.0.0.1", self.port, "temporary instance"
                )
                try:
                    self.start()
                    break
                except NoDatabase:
                    if attempt == _ATTEMPTS:
                        raise
        except BaseException:
            self.close()
            raise

    def _initialise_or_copy(self) -> None:
        template = self._templates.get(type(self))
        if template is not None:
            self.password = template.password
            template.copy_to(self.data)
            return
        self._initialise_anew()
        if self.data.exists():
            self._templates[type(self)] = _Template(self.data, self.password)

    def _initialise_anew(self) -> None:
        # MariaDB's installer fails now and then on a busy machine, over its own temporary tables.
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self.initialise()
            except NoDatabase:
                if attempt == _ATTEMPTS:
                    raise
                shutil.rmtree(self.data, ignore_errors=True)
            else:
                return

    @abstractmethod
    def find_programs(self) -> None:
        """Find what is needed, before anything is made."""

    def initialise(self) -> None:
        """Make the data directory, if there is to be one."""

    def prepare(self) -> None:
        """Write what else the server reads."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._user, *self.command()],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest alone
            )
        self._tell_keeper(f"{self._process.pid} {self.END.value}")
        try:
            self.wait_until_ready()
        except NoDatabase:
            self._finish(self.END)
            raise

    def stop(self) -> None:
        self._finish(self.STOP)

    def kill(self) -> None:
        if self._process is not None:
            # The processes of PostgreSQL would outlive their parent for a moment.
            for process in self._suspended():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._finish(signal.SIGKILL)

    def freeze(self) -> None:
        # One that is stopped ends at SIGKILL alone, and does not hear that its parent has ended.
        self._tell_keeper(" ".join(f"{process.pid} 9" for process in self._suspended()))

    def thaw(self) -> None:
        assert self._process is not None
        roots = self.roots()
        for process in (*roots, *_children(roots)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        self._tell_keeper(f"{self._process.pid} {self.END.value}")

    def roots(self) -> list[psutil.Process]:
        """Return the processes that start all others of the server."""
        return [] if self._process is None else [psutil.Process(self._process.pid)]

    def _suspended(self) -> list[psutil.Process]:
        """Suspend the server's processes, and return them."""
        roots = self.roots()
        for root in roots:
            root.suspend()
        # No more of these begin.
        children = _children(roots)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.suspend()
        return [*roots, *children]

    def failure(self) -> str | None:
        if self._process is not None and self._process.poll() is None:
            return None
        log = (self.directory / "log").read_text(errors="replace")
        return f"{self.command()[0]} ended: {log[-2000:]}"

    def close(self) -> None:
        self._finish(self.END)
        self._keeper.communicate()
        self._claim.close()

    def write(self, name: str, text: str) -> Path:
        """Write a file that the server can read and nobody else."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        if self._user:
            shutil.chown(path, *_nobody())
        return path

    def put(self, name: str, text: str) -> str:
        return str(self.write(name, text))

    def run(self, *command: str | Path) -> None:
        """Run a program as the server's user."""
        result = subprocess.run(
            [*self._user, *map(str, command)],
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if result.returncode:
            output = result.stdout.decode(errors="replace")
            raise NoDatabase(f"{command[0]} failed: {output[-2000:]}")

    def _step_down(self) -> list[str]:
        """Return what runs a command without privileges: no server runs as root."""
        if os.geteuid() != 0:
            return []
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise NoDatabase("as root the server needs setpriv (util-linux), which is not there")
        uid, gid = _nobody()
        shutil.chown(self.directory, uid, gid)
        return [setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--"]

    def _environment(self) -> dict[str, str]:
        # Neither settings of the tester's own servers nor their language.
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}

    def _finish(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            self._tell_keeper("")

    def _tell_keeper(self, line: str) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(f"{line}\n".encode())
        self._keeper.stdin.flush()


def _children(parents: Iterable[psutil.Process]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for parent in parents:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += parent.children(recursive=True)
    return found


def _nobody() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid
