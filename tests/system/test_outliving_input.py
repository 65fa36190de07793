"""Records, folders and kernels that are not as they should be: the server starts, and says so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..databases import Database
from .conftest import stored_in
from .outliving import OutlivingServer, has_ended
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.only("sqlite", reason="what is found on this machine: the database has no part"),
]

NewServer = Callable[..., OutlivingServer]


@pytest.fixture
def new_server(database: Database, new_outliving_server: NewServer) -> NewServer:
    """A function that makes a server of this database whose kernels outlive it."""

    def new(config: str = "", **how: object) -> OutlivingServer:
        return new_outliving_server(f"{stored_in(database)}\n{config}", **how)

    return new


def test_bad_records_disturb_nobody(new_server: NewServer) -> None:
    server = new_server()
    server.start()
    good = server.create("good.ipynb")
    silent = server.create("silent.ipynb")
    record = server.record(good["kernel"]["id"])
    stopped = server.process_of(silent["kernel"]["id"])
    server.end("SIGKILL")
    stopped.suspend()
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    folder = server.records

    def write(name: str, text: str, mode: int = 0o600) -> None:
        path = folder / f"{name}.json"
        path.write_text(text)
        path.chmod(mode)

    def of(name: str, **changes: Any) -> str:
        return json.dumps({**record, "kernel_id": name, "sessions": [], **changes})

    strange = [stranger.pid, record["process"][1]]
    write("cut-off", of("cut-off")[:-30])
    write("newer", of("newer", format=2))
    write("writable", of("writable"), 0o666)
    write("another", of("somebody"))
    (folder / "link.json").symlink_to(folder / f"{good['kernel']['id']}.json")
    write("stranger", of("stranger", process=strange))
    try:
        server.start()
        assert [one["path"] for one in server.sessions()] == ["good.ipynb", "silent.ipynb"]
        assert sorted(server.kernels()) == sorted([good["kernel"]["id"], silent["kernel"]["id"]])
        assert server.execute(good["kernel"]["id"], "1 + 1") == "2"
        # It does not answer, and its websocket opens all the same.
        assert server.kernel_state(silent["kernel"]["id"]) == "busy"
        with server.channels(silent["kernel"]["id"], join=False) as channels:
            stopped.resume()
            until(
                lambda: server.kernel_state(silent["kernel"]["id"]) == "idle",
                why="it says that it is idle",
            )
            # What it publishes before its listener's subscription has reached it is lost.
            channels.rejoin()
            assert channels.execute("2 + 2") == "4"
        for name in ("cut-off", "newer", "writable", "another", "link"):
            said = f"The kernel record {folder / name}.json is left alone"
            assert server.log.count(said) == 1, name
            assert (folder / f"{name}.json").exists()
        assert server.log.count("The kernel stranger ended while it had no server") == 1
        server.restart("SIGTERM")
        assert stranger.poll() is None
        assert server.own_frames() == []
        assert server.uncaught() == []
    finally:
        stranger.kill()
        stranger.wait()


def check_ends_with_its_server(server: OutlivingServer, why: str) -> None:
    server.start()
    kernel_id = server.create("a.ipynb")["kernel"]["id"]
    assert server.execute(kernel_id, "1 + 1") == "2"
    assert server.log.count("no record of them can be kept") == 1
    assert why in server.log
    (process,) = until(server.all_kernel_processes, why="it has its command")
    server.end("SIGTERM")
    until(lambda: has_ended(process), why="it ends with its server")
    server.start()
    again = server.create("a.ipynb")["kernel"]["id"]
    (process,) = until(server.all_kernel_processes, why="it has its command")
    server.end("SIGKILL")
    until(lambda: has_ended(process), why="it ends with its server")
    server.start()
    assert again not in server.kernels()
    assert server.sessions() == []
    assert server.own_frames() == []
    assert server.uncaught() == []


def a_file(server: OutlivingServer) -> str:
    (server.directory / "runtime").mkdir()
    (server.directory / "runtime" / "session-store-kernels").write_text("")
    return "File exists"


def open_to_others(server: OutlivingServer) -> str:
    folder = server.directory / "runtime" / "session-store-kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return "others can write to it"


_WITHOUT_LOCKS = """
import errno, fcntl, os

def flock(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = flock
"""


def without_locks(server: OutlivingServer) -> str:
    server.add_module("without_locks", _WITHOUT_LOCKS)
    path = server.directory / "config" / server.CONFIG_FILE
    path.write_text(f"import without_locks\n{path.read_text()}")
    return "No locks available"


@pytest.mark.parametrize("spoil", [a_file, open_to_others, without_locks])
def test_where_nothing_can_be_recorded_kernels_end_with_their_server(
    new_server: NewServer, spoil: Callable[[OutlivingServer], str]
) -> None:
    server = new_server()
    check_ends_with_its_server(server, spoil(server))


def test_who_does_not_want_it_has_jupyter_servers_kernels(new_server: NewServer) -> None:
    server = new_server("c.PersistentKernelManager.detach_on_stop = False\n")
    server.start()
    server.create("a.ipynb")
    (process,) = until(server.all_kernel_processes, why="it has its command")
    server.end("SIGTERM")
    until(lambda: has_ended(process), why="it ends with its server")
    assert not (server.directory / "runtime" / "session-store-kernels").exists()


@pytest.mark.parametrize("days", ["0", "-1", "float('nan')"])
def test_days_that_are_none_are_refused(new_server: NewServer, days: str) -> None:
    server = new_server(f"c.PersistentKernelManager.detached_kernel_days = {days}\n")
    server.launch()
    assert server.exit_code() != 0
    assert "c.PersistentKernelManager.detached_kernel_days is" in server.log
    assert "expected more than 0" in server.log


def test_a_kernel_whose_time_is_up_is_ended_by_whoever_finds_it(
    new_server: NewServer, tmp_path: Path
) -> None:
    """Another namespace's server too, if it is of the same user."""
    owner = new_server()
    owner.start()
    kernel_id = owner.create("a.ipynb")["kernel"]["id"]
    process = owner.process_of(kernel_id)
    owner.end("SIGKILL")
    shared = {"JUPYTER_RUNTIME_DIR": str(owner.directory / "runtime")}
    other = new_server(
        "c.PersistentKernelManager.detached_kernel_days = 30\n",
        root=tmp_path,
        environment=shared,
    )
    other.start()
    assert other.log.count("1 kernel(s) of other namespaces run without a server") == 1
    other.end("SIGTERM")
    owner.change_record(kernel_id, owned_until=-31 * 86_400.0)
    other.start()
    until(lambda: has_ended(process), why="it is ended")
    assert other.kernels() == []
    until(lambda: list(owner.records.iterdir()) == [], why="its files go")
    assert "had no server for 30 days (detached_kernel_days)" in other.log
