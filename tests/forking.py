"""Runs programs of Jupyter's many times from one process that has imported them once.

The imports take several times as long as what most commands do, and most of a
server's start. As a program it takes the numbers of two pipes. It reads a JSON
object a line from the first: a program to fork, or a process that has ended, to
be told how. It answers each with a number.
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
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

#: All modules of these are imported, but for what only tests import.
_PACKAGES: Final = ("jupyter_session_store", "jupyter_server", "kernel_gateway")
_NEVER: Final = frozenset({"pytest_plugin", "__main__"})
#: What they import when they need it.
_LATER: Final = ("alembic.command", "psycopg", "pymysql", "rich.progress", "rich.table")
#: Whether this system tells a process that another, which is not its child, has ended.
USABLE: Final = hasattr(os, "pidfd_open")


class Forked:
    """A process that was forked, with the methods of :class:`subprocess.Popen`."""

    def __init__(self, forker: Forker, pid: int) -> None:
        self._forker = forker
        self.pid = pid
        self._descriptor: int | None = os.pidfd_open(pid)
        self.returncode: int | None = None

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
            self.returncode = self._forker.ask(ended=self.pid)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Forker:
    """The process that forks: the tests' side. The processes end on their own."""

    def __init__(self) -> None:
        requests, self._requests = os.pipe()
        answers, its_answers = os.pipe()
        self._answers = os.fdopen(answers)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(requests), str(its_answers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(requests, its_answers),
            start_new_session=True,  # Ctrl-C is for pytest alone
        )
        os.close(requests)
        os.close(its_answers)
        atexit.register(self._close)

    def _close(self) -> None:
        os.close(self._requests)
        self._process.wait()
        self._answers.close()

    def ask(self, **request: Any) -> int:
        """Send a request and return its answer."""
        os.write(self._requests, f"{json.dumps(request)}\n".encode())
        answer = self._answers.readline()
        assert answer, "the process that forks has ended"
        return int(answer)

    def fork(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        streams: Sequence[Path | str],
    ) -> Forked:
        """Start a process in a session of its own.

        Parameters
        ----------
        command : sequence of str
            The path of an installed command, or ``-m`` and a module; and its arguments.
        folder : Path
            Its working directory.
        environment : mapping
            All of it.
        streams : sequence of Path or str
            The files that are its standard input, output and error; the latter two are added to.
        """
        request = {
            "command": list(command),
            "folder": str(folder),
            "environment": dict(environment),
            "streams": [str(path) for path in streams],
        }
        return Forked(self, self.ask(**request))


@cache
def forker() -> Forker:
    """Return the process that forks for the tests of this one."""
    return Forker()


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


def _become(request: Mapping[str, Any]) -> Callable[[], object]:
    """Be a process that was started for a command, and return what runs it."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, path in enumerate(request["streams"]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    program, *words = request["command"]
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if program == "-m":
        name, *words = words
        sys.path[0] = request["folder"]
        sys.argv = [name, *words]
        for stream in (sys.stdout, sys.stderr):
            # As with PYTHONUNBUFFERED.
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]

        def run() -> None:
            runpy.run_module(name, run_name="__main__", alter_sys=True)

        return run
    sys.path[0] = os.path.dirname(program)
    sys.argv = [program, *words]
    [command] = entry_points(group="console_scripts", name=os.path.basename(program))
    main: Callable[[], object] = command.load()
    return main


def serve(requests: int, answers: int) -> object:
    """Fork for each request until they end; return what the program that was forked returns."""
    _import_all()
    # What is here stays: no collection in a process that was forked has to copy it.
    gc.collect()
    gc.freeze()
    with os.fdopen(requests) as lines:
        for line in lines:
            request = json.loads(line)
            if "ended" in request:
                _, status = os.waitpid(request["ended"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = os.fork()
                if not answer:
                    os.close(answers)
                    break
            os.write(answers, f"{answer}\n".encode())
        else:
            return 0
    return _become(request)()


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1]), int(sys.argv[2])) or 0)  # type: ignore[arg-type]
