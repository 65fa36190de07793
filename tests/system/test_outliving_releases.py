"""Between stop and start the package, Jupyter Server and jupyter_client become other releases."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ..databases import Database
from ..migrations.support import ROOT
from ..programs import run_to_end
from . import releases
from .conftest import stored_in
from .outliving import OutlivingServer, has_ended
from .parity import light_config
from .process import OTHER_KERNEL
from .releases import Release
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("other releases"),
    pytest.mark.timeout(900),
    pytest.mark.only(
        "sqlite", "postgresql", reason="kernels on this machine: with a file and with a server"
    ),
]

#: As `make test-oldest` makes it.
_OLDEST: Final = (".venvs/oldest", ".[test]", "--oldest", "--python-version=3.10")


@pytest.fixture(scope="session")
def oldest() -> str:
    """The Python that has the oldest declared releases of all dependencies."""
    (ROOT / ".venvs").mkdir(exist_ok=True)
    with (ROOT / f"{_OLDEST[0]}.lock").open("w") as lock:
        # Several processes of the tests may want it at once: one makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "tools/environment.py", *_OLDEST]
        done = run_to_end(command, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stdout
    python = ROOT / _OLDEST[0] / "bin" / "python"
    asked = "import jupyter_client, jupyter_server as server; print(server, jupyter_client)"
    there = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    assert there.stdout.count(str(ROOT / _OLDEST[0])) == 2
    return str(python)


class ExchangedServer(OutlivingServer):
    """A server of which another release can be started each time."""

    python: str = sys.executable
    release: Release | None = None

    def command(self) -> list[str]:
        """Return what runs the server."""
        _, *rest = super().command()
        return [self.python, *rest]

    def _clean_environment(self) -> dict[str, str]:
        environment = super()._clean_environment()
        if self.release is not None:
            paths = [str(self.release.folder), environment["PYTHONPATH"]]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        return environment


@pytest.fixture
def server(database: Database) -> Iterator[ExchangedServer]:
    server = ExchangedServer(light_config(stored_in(database)), fork=False)
    server.add_light_kernel()
    yield server
    print(server.log)
    server.close()


def check_exchanges(server: ExchangedServer, *others: tuple[str, Release | None]) -> None:
    """Start each of some releases after the last, and check that it has all kernels."""
    server.start()
    sessions = []
    for number, (python, release) in enumerate(others):
        real = server.create(f"real-{number}.ipynb", kernel={"name": OTHER_KERNEL})
        light = server.create(f"light-{number}.ipynb")
        sessions += [real, light]
        server.execute(real["kernel"]["id"], f"x = {number}")
        processes = {process.pid for process in server.all_kernel_processes()}
        assert len(processes) == len(sessions)
        server.end(("SIGKILL", "SIGTERM")[number % 2])
        server.python, server.release = python, release
        server.start()
        assert [one["id"] for one in server.sessions()] == [one["id"] for one in sessions]
        # It is not known what one is doing that never answers.
        assert server.kernel_state(light["kernel"]["id"]) == "busy"
        for place, one in enumerate(sessions[::2]):
            assert server.execute(one["kernel"]["id"], "x") == str(place)
        assert {process.pid for process in server.all_kernel_processes()} == processes
        # What is restarted here is found there.
        restarted = server.process_of(light["kernel"]["id"])
        path = f"/api/kernels/{light['kernel']['id']}/restart"
        assert server.api.post(path).status_code == 200
        assert has_ended(restarted)
        server.model(server.patch(light["id"], path=f"renamed-{number}.ipynb"), 200)
    processes_left = server.all_kernel_processes()
    for session in sessions:
        assert server.delete(session["id"]).status_code == 204
    until(lambda: all(map(has_ended, processes_left)), why="they end")
    assert list(server.records.iterdir()) == []
    assert server.own_frames() == []


def test_jupyter_server_and_client_become_old_and_new(server: ExchangedServer, oldest: str) -> None:
    check_exchanges(server, (oldest, None), (sys.executable, None), (oldest, None))
    asked = "import jupyter_server; print(jupyter_server.__version__)"
    version = subprocess.check_output([oldest, "-c", asked], text=True).strip()
    assert server.log.count(f"Jupyter Server {version} is running") == 2


def test_the_package_becomes_a_later_one_and_this_one_again(
    server: ExchangedServer, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "later").mkdir()
    later = releases.later(tmp_path / "later", releases.EXPANDING)
    later.check(tmp_path)
    if database.kind != "sqlite":
        later.upgrade(database, tmp_path)
    check_exchanges(server, (sys.executable, later), (sys.executable, None))
