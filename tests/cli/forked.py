"""Runs ``jupyter session-store`` many times from one process that has imported it once.

The imports take several times as long as what most commands do. As a program it takes three
arguments: the command's path, and the numbers of two pipes. It reads a JSON object a line from
the first, forks a process that becomes the command, and writes its exit code to the second.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

#: What the package imports when a command needs it.
_LATER: Final = (
    "alembic.command",
    "jupyter_server.gateway.gateway_client",
    "psycopg",
    "pymysql",
    "rich.progress",
    "rich.table",
)
_STREAMS: Final = ("stdin", "stdout", "stderr")


class Forker:
    """A process that forks: the tests' side.

    Parameters
    ----------
    command : str
        The path of the command, as it is installed.
    environment : mapping
        In which it imports; each command has its own.
    """

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, __file__, command, str(requests), str(answers)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(requests, answers),
            start_new_session=True,  # Ctrl-C is for pytest alone
        )
        os.close(requests)
        os.close(answers)
        atexit.register(self.close)
        # It has imported all.
        assert os.read(self._answers, 20), "it ended while it imported"

    def close(self) -> None:
        """End it, and the command that it runs."""
        atexit.unregister(self.close)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._requests)
        os.close(self._answers)

    def run(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        answer: str,
        patience: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command in a folder to its end.

        Parameters
        ----------
        words, folder, environment
            As the command has them.
        answer : str
            What stands in its standard input.
        patience : float
            After so many seconds it is given up, and this is closed.
        """
        with tempfile.TemporaryDirectory() as kept:
            streams = {name: Path(kept, name) for name in _STREAMS}
            streams["stdin"].write_text(answer)
            request = {
                "words": list(words),
                "folder": str(folder),
                "environment": dict(environment),
                "streams": [str(streams[name]) for name in _STREAMS],
            }
            os.write(self._requests, f"{json.dumps(request)}\n".encode())
            if not select.select([self._answers], [], [], patience)[0]:
                self.close()
                raise subprocess.TimeoutExpired(list(words), patience)
            code = os.read(self._answers, 20)
            assert code, "the process that forks has ended"
            return subprocess.CompletedProcess(
                list(words), int(code), streams["stdout"].read_text(), streams["stderr"].read_text()
            )


def _import_all() -> Any:
    """Import what there is of the package, and return what the command calls."""
    [command] = entry_points(group="console_scripts", name="jupyter-session-store")
    main = command.load()
    package = importlib.import_module(command.module.partition(".")[0])
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    for name in _LATER:
        importlib.import_module(name)
    return main


def _become(command: str, request: Mapping[str, Any]) -> None:
    """Be a process that was started for the command."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, path in enumerate(request["streams"]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = [command, *request["words"]]
    sys.path[1:1] = os.environ["PYTHONPATH"].split(os.pathsep)


def serve(command: str, requests: int, answers: int) -> int:
    """Fork for each request until they end; return what the command that was forked returns."""
    # As for the command, whose folder comes first.
    sys.path[0] = os.path.dirname(command)
    run = _import_all()
    # What is here stays: no collection in a process that was forked has to copy it.
    gc.collect()
    gc.freeze()
    os.write(answers, b"ready\n")
    with os.fdopen(requests) as lines:
        for line in lines:
            request = json.loads(line)
            child = os.fork()
            if not child:
                os.close(answers)
                break
            _, status = os.waitpid(child, 0)
            os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        else:
            return 0
    _become(command, request)
    return int(run() or 0)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
