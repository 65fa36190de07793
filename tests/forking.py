"""Runs programs of Jupyter's many times from one process that has imported them once.

The imports take several times as long as what most commands do, and most of a
server's start. As a program it takes the number of a socket, and answers each message
with a number: a program to fork, with the files that are its streams, or a
process that has ended, to be told how.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeAlias

#: All modules of these are imported, but for what only tests import.
_PACKAGES: Final = ("jupyter_session_store", "jupyter_server", "kernel_gateway")
_NEVER: Final = frozenset({"pytest_plugin", "__main__"})
#: What they import when they need it.
_LATER: Final = ("alembic.command", "psycopg", "pymysql", "rich.progress", "rich.table")
#: Whether this system tells a process that another, which is not its child, has ended.
USABLE: Final = hasattr(os, "pidfd_open")


_STDERR: Final = 2
#: Bytes of the largest message.
_LARGEST: Final = 100_000


class Forked:
    """A process that was forked, with what the tests use of :class:`subprocess.Popen`."""

    def __init__(
        self,
        forker: Forker,
        pid: int,
        stdin: int | None,
        stdout: int | None,
        stderr: int | None,
    ) -> None:
        self._forker = forker
        self.pid = pid
        self._descriptor: int | None = os.pidfd_open(pid)
        self.returncode: int | None = None
        #: Where these are pipes.
        self.stdin: IO[str] | None = None if stdin is None else os.fdopen(stdin, "w")
        self.stdout: IO[str] | None = None if stdout is None else os.fdopen(stdout)
        self.stderr: IO[str] | None = None if stderr is None else os.fdopen(stderr)

    def poll(self) -> int | None:
        """Return how it has ended, if it has."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return how."""
        if self._descriptor is not None:
            if not select.select([self._descriptor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            os.close(self._descriptor)
            self._descriptor = None
            self.returncode = self._forker.ask({"ended": self.pid})
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Close its standard input, and return the rest of its two outputs once it ends."""
        if self.stdin is not None:
            with suppress(BrokenPipeError):
                self.stdin.close()
        rest = ["", ""]
        readers = []
        for place, stream in enumerate((self.stdout, self.stderr)):
            if stream is not None and not stream.closed:
                reader = threading.Thread(target=_read, args=(stream, rest, place), daemon=True)
                reader.start()
                readers.append(reader)
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return rest[0], rest[1]

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


#: What the tests start, forked or not.
Process: TypeAlias = "Forked | subprocess.Popen[str]"


def _read(stream: IO[str], rest: list[str], place: int) -> None:
    with stream:
        rest[place] = stream.read()


class Forker:
    """The process that forks: the tests' side. The processes end on their own."""

    def __init__(self) -> None:
        #: Threads ask too, and an answer says not whose it is.
        self._asking = threading.Lock()
        self._socket, its_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(its_socket.fileno())],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its_socket.fileno()],
            start_new_session=True,  # Ctrl-C is for pytest alone
        )
        its_socket.close()
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def ask(self, request: Mapping[str, Any], streams: Sequence[int] = ()) -> int:
        """Send a request and return its answer."""
        with self._asking:
            socket.send_fds(self._socket, [json.dumps(request).encode()], streams)
            answer = self._socket.recv(_LARGEST)
        assert answer, "the process that forks has ended"
        return int(answer)

    def fork(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any],
        stderr: int | IO[Any] = _STDERR,
        whole: bool = False,
    ) -> Forked:
        """Start a process in a session of its own.

        Parameters
        ----------
        command : sequence of str
            The path of an installed command, ``-m`` and a module, or ``-c`` and code; and its
            arguments.
        cwd, env, stdin, stdout, stderr
            As :class:`subprocess.Popen` has them.
        whole : bool
            Whether its interpreter takes itself apart at its end, as all do that are not forked.
        """
        request = {
            "command": list(command),
            "folder": str(cwd),
            "environment": dict(env),
            "whole": whole,
        }
        ours: list[int | None] = []
        with ExitStack() as stack:
            theirs = []
            for stream, mode in (
                (stdin, os.O_RDONLY),
                (stdout, os.O_WRONLY),
                (stderr, os.O_WRONLY),
            ):
                own = None
                if stream == subprocess.DEVNULL:
                    number = os.open(os.devnull, mode)
                    stack.callback(os.close, number)
                elif stream == subprocess.PIPE:
                    ends = os.pipe()
                    number, own = ends if mode == os.O_RDONLY else ends[::-1]
                    stack.callback(os.close, number)
                else:
                    number = stream if isinstance(stream, int) else stream.fileno()
                theirs.append(number)
                ours.append(own)
            pid = self.ask(request, theirs)
        return Forked(self, pid, *ours)


@cache
def forker() -> Forker:
    """Return the process that forks for the tests of this one."""
    return Forker()


def start(command: Sequence[str], **how: Any) -> Process:
    """Start a process as :meth:`Forker.fork` does, where nothing can be forked in the usual way."""
    if USABLE:
        return forker().fork(command, **how)
    how.pop("whole", None)
    return subprocess.Popen([sys.executable, *command], text=True, start_new_session=True, **how)


def _import_all() -> None:
    # It builds a parser when it is imported, is optional, and checks nothing here.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if module.name.rpartition(".")[2] not in _NEVER:
                # Of what others have, some needs what is not installed.
                with suppress(ImportError):
                    importlib.import_module(module.name)
    for name in _LATER:
        importlib.import_module(name)
    # Not before: what it imports, imports that parser.
    importlib.import_module("tests.remembering").remember()
    entry_points()


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> Callable[[], object]:
    """Be a process that was started for a command, and return what runs it."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Anew: what they are, a pipe or a terminal, is asked when they are opened.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    program, *words = request["command"]
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if program in ("-m", "-c"):
        what, *words = words
        sys.path[0] = request["folder"]
        sys.argv = [program if program == "-c" else what, *words]
        for text in (sys.stdout, sys.stderr):
            # Nearly as with PYTHONUNBUFFERED: the two may go to one file.
            text.reconfigure(line_buffering=True, write_through=True)
        if program == "-c":
            return lambda: exec(what, {"__name__": "__main__"})
        return lambda: runpy.run_module(what, run_name="__main__", alter_sys=True) and None
    sys.path[0] = os.path.dirname(program)
    sys.argv = [program, *words]
    [command] = entry_points(group="console_scripts", name=os.path.basename(program))
    main: Callable[[], object] = command.load()
    return main


def _run_to_end(run: Callable[[], object]) -> NoReturn:
    """Run a program, and end as an interpreter does that has run it, but for its last step.

    An interpreter would then take apart all that was imported. That copies each page of it, which
    takes as long as most commands do.
    """
    interrupted = False
    try:
        returned = run()
    except SystemExit as asked:
        returned = asked.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        returned, interrupted = 1, isinstance(error, KeyboardInterrupt)
    if not isinstance(returned, int | None):
        print(returned, file=sys.stderr)
        returned = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException:
        # Such as a second Ctrl-C, which an interpreter tells of, too.
        traceback.print_exc()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except Exception:
            returned = 120
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((returned or 0) & 0xFF)


def serve(number: int) -> object:
    """Fork for each request until they end; return what a program that takes itself apart does."""
    _import_all()
    # What is here stays: no collection in a process that was forked has to copy it.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as requests:
        while True:
            message, streams, _, _ = socket.recv_fds(requests, _LARGEST, 3)
            if not message:
                return 0
            request = json.loads(message)
            if "ended" in request:
                _, status = os.waitpid(request["ended"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = os.fork()
                if not answer:
                    break
                for stream in streams:
                    os.close(stream)
            requests.send(str(answer).encode())
    run = _become(request, streams)
    if request["whole"]:
        return run()
    _run_to_end(run)


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])) or 0)  # type: ignore[arg-type]
