"""A server is killed in each phase of a create and of a restart: nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

from ..databases import Database
from .conftest import stored_in
from .outliving import OutlivingServer, has_ended
from .parity import light_config
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.only(
        "sqlite", "postgresql", reason="kernels on this machine: with a file and with a server"
    ),
]

NewServer = Callable[..., OutlivingServer]

#: The server kills itself at the point that a file names, and looks for kernels often, which it
#: counts in another.
_POINTS: Final = """
import os, signal
from pathlib import Path
from jupyter_session_store.kernels.outliving import manager
from jupyter_session_store.kernels.outliving.adoption import Search
from jupyter_session_store.kernels.outliving.owned_kernels import OwnedKernels

manager._MAINTENANCE = 0.1
folder = Path({folder!r})

def end_at(point):
    if (folder / point).exists():
        (folder / point).unlink()
        os.kill(os.getpid(), signal.SIGKILL)

def wrap(name):
    wrapped = getattr(OwnedKernels, name)
    def with_points(self, *arguments):
        end_at(f"before {{name}}")
        result = wrapped(self, *arguments)
        end_at(f"after {{name}}")
        return result
    setattr(OwnedKernels, name, with_points)

for name in ("begin_launch", "note_launched", "note_sessions"):
    wrap(name)

find = Search.find
def find_and_count(self, *arguments, **named):
    found = find(self, *arguments, **named)
    with (folder / "looks").open("a") as file:
        file.write(".")
    return found
Search.find = find_and_count
"""

#: Each with whether there is a kernel then, which the next server has to find.
_LAUNCH: Final = (
    ("before begin_launch", False),
    ("after begin_launch", False),
    ("before note_launched", True),
    ("after note_launched", True),
)
_CREATES: Final = (*_LAUNCH, ("before note_sessions", True), ("after note_sessions", True))


class Crashing:
    """A server with light kernels that can be told where to end.

    Parameters
    ----------
    server : OutlivingServer
        Running, with the configuration of :func:`crashing_config`.
    folder : Path
        Where it looks for what it is told.
    """

    def __init__(self, server: OutlivingServer, folder: Path) -> None:
        self.server = server
        self._folder = folder

    def end_at(self, point: str, request: Callable[[], httpx.Response]) -> None:
        """Have a request end the server at a point, and start it again."""
        (self._folder / point).touch()
        with pytest.raises(httpx.TransportError):
            request()
        self.server.exit_code()
        assert not (self._folder / point).exists()
        self.server.start()

    def look(self) -> None:
        """Wait until the server has looked for kernels some times more."""
        looks = self._folder / "looks"
        before = looks.stat().st_size if looks.exists() else 0
        until(lambda: looks.exists() and looks.stat().st_size >= before + 3, why="it looks")

    def processes(self) -> dict[str, psutil.Process]:
        """Return the processes of kernels, by the kernels' ids; check that there are no two."""
        found: dict[str, psutil.Process] = {}
        for process in self.server.all_kernel_processes():
            kernel_id = Path(process.cmdline()[-1]).stem.removeprefix("kernel-")
            assert found.setdefault(kernel_id, process) == process
        return found

    def check(self) -> None:
        """Check that kernels, processes, files and sessions agree, now and after some looks."""
        self._check()
        self.look()
        self._check()

    def _check(self) -> None:
        server = self.server
        kernels = set(server.kernels())
        processes = self.processes()
        assert set(processes) == kernels
        assert {one["kernel"]["id"] for one in server.sessions()} <= kernels
        files = {path.name for path in server.records.iterdir()}
        assert files == {f"{one}.{kind}" for one in kernels for kind in ("json", "lock", "log")}
        for kernel_id in kernels:
            record = server.record(kernel_id)
            assert record["process"][0] == processes[kernel_id].pid
            assert record["owner"][0] == server.pid
        connections = {path.stem for path in server.runtime.glob("kernel-*.json")}
        assert {f"kernel-{one}" for one in kernels} <= connections


@pytest.fixture
def crashing(database: Database, new_outliving_server: NewServer, tmp_path: Path) -> Crashing:
    config = light_config(stored_in(database)) + _POINTS.format(folder=str(tmp_path))
    server = new_outliving_server(config)
    server.add_light_kernel()
    server.start()
    return Crashing(server, tmp_path)


@pytest.mark.torture
def test_a_create_that_a_crash_cuts_off(
    crashing: Crashing, rounds: Callable[[int], int], share: Callable[..., Any]
) -> None:
    server = crashing.server
    kept = server.create("kept.ipynb")
    number = rounds(5)
    cases = list(share(_CREATES, ("sqlite", "postgresql")))
    for turn in range(number):
        for point, has_kernel in cases:
            print(f"--- {turn}: {point}")
            path = f"{point} {turn}.ipynb"
            crashing.end_at(point, lambda path=path: server.post(path))  # type: ignore[misc]
            crashing.check()
            left = [one for one in server.kernels() if one != kept["kernel"]["id"]]
            assert len(left) == has_kernel, point
            is_saved = point == "after note_sessions"
            assert [one["path"] for one in server.sessions()] == ["kept.ipynb"] + [path] * is_saved
            # The path is free, if it is not had already, and what was left can be ended.
            again = server.create(path)
            assert (again["kernel"]["id"] in left) == is_saved
            for kernel_id in {*left, again["kernel"]["id"]}:
                assert server.api.delete(f"/api/kernels/{kernel_id}").status_code == 204
            assert server.kernels() == [kept["kernel"]["id"]]
            crashing.check()
    print(f"{number * len(cases)} rounds")
    assert server.own_frames() == []


@pytest.mark.torture
def test_a_restart_that_a_crash_cuts_off(
    crashing: Crashing, rounds: Callable[[int], int], share: Callable[..., Any]
) -> None:
    server = crashing.server
    kept = server.create("kept.ipynb")
    number = rounds(5)
    cases = list(share(_LAUNCH, ("sqlite", "postgresql")))
    for turn in range(number):
        for point, has_kernel in cases:
            print(f"--- {turn}: {point}")
            session = server.create(f"{point} {turn}.ipynb")
            kernel_id = session["kernel"]["id"]
            if turn % 2:
                # An adopted one.
                server.restart()
            first = server.process_of(kernel_id)
            restart = partial(server.api.post, f"/api/kernels/{kernel_id}/restart")
            crashing.end_at(point, restart)
            crashing.check()
            assert has_ended(first)
            expected = [kept["id"]] + [session["id"]] * has_kernel
            assert [one["id"] for one in server.sessions()] == expected
            if has_kernel:
                assert server.delete(session["id"]).status_code == 204
            assert server.kernels() == [kept["kernel"]["id"]]
            crashing.check()
    print(f"{number * len(cases)} rounds")
    assert server.own_frames() == []


@pytest.mark.only("sqlite", reason="how kernels are recorded, whatever the store")
def test_a_kernel_that_its_command_line_hardly_names(crashing: Crashing) -> None:
    """It is found though its process was not recorded yet, and its connection file is quoted."""
    server = crashing.server
    command = "for one in '{connection_file}'; do while [ -e \"$one\" ]; do sleep 2; done; done"
    server.add_kernel("quoting", ["/bin/sh", "-c", command])
    create = partial(server.post, "a.ipynb", kernel={"name": "quoting"})
    crashing.end_at("before note_launched", create)
    (kernel_id,) = server.kernels()
    process = server.process_of(kernel_id)
    assert f"kernel-{kernel_id}.json" in " ".join(process.cmdline())
    assert server.api.delete(f"/api/kernels/{kernel_id}").status_code == 204
    assert has_ended(process)


@pytest.mark.only("sqlite", reason="how kernels are recorded, whatever the store")
def test_sessions_outlive_a_restart_that_failed(crashing: Crashing) -> None:
    """What was recorded of a kernel goes with its process, and comes again with the next."""
    server = crashing.server
    program = server.directory / "kernel"
    server.add_kernel("failing", [str(program), "{connection_file}"])

    def install() -> None:
        program.write_text('#!/bin/sh\nwhile [ -e "$1" ]; do sleep 2; done\n')
        program.chmod(0o700)

    install()
    session = server.create("a.ipynb", kernel={"name": "failing"})
    restart = f"/api/kernels/{session['kernel']['id']}/restart"
    program.unlink()
    assert server.api.post(restart).status_code == 500
    install()
    assert server.api.post(restart).status_code == 200
    server.restart()
    assert [one["id"] for one in server.sessions()] == [session["id"]]
