"""Local kernels outlive their server, however it ends, and the next has them and their sessions."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_session_store.kernels.outliving.folder import KernelFolder

from ..databases import Database
from .client import Model
from .conftest import stored_in
from .losing import LosingDatabase
from .outliving import BASH, ENDS, OutlivingServer, has_ended
from .rows import rows_of
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.only(
        "sqlite", "postgresql", reason="kernels on this machine: with a file and with a server"
    ),
]

NewServer = Callable[..., OutlivingServer]


@pytest.fixture
def new_server(new_outliving_server: NewServer) -> NewServer:
    """A function that makes a server whose kernels outlive it."""
    return new_outliving_server


@pytest.fixture
def server(database: Database, new_server: NewServer) -> OutlivingServer:
    """A running server."""
    server = new_server(stored_in(database))
    server.start()
    return server


def known(models: list[Model]) -> list[tuple[str, ...]]:
    """Return what of sessions stays the same, in the order of a list."""
    return [
        (one["id"], one["path"], one["name"], one["type"], one["kernel"]["id"]) for one in models
    ]


def stored(database: Database) -> list[tuple[str, ...]]:
    """Return the same of what is stored."""
    return [
        (one.session_id, str(one.path), one.name, one.type, one.kernel_id)
        for one in rows_of(database)
    ]


def until_stored(server: OutlivingServer, database: Database) -> None:
    until(lambda: stored(database) == known(server.sessions()), why="the rows are what is listed")


def check_no_faults(server: OutlivingServer) -> None:
    assert server.own_frames() == []
    assert server.uncaught() == []


@pytest.mark.torture
def test_nothing_is_lost_however_the_server_ends(
    database: Database,
    new_server: NewServer,
    rounds: Callable[[int], int],
    share: Callable[..., Any],
    seed: int,
    tmp_path: Path,
) -> None:
    """Five kernels: one is busy, one has two sessions, one is of another language."""
    chance = random.Random(seed)
    ways = list(share(tuple(ENDS), ("sqlite", "postgresql")))
    chance.shuffle(ways)
    server = new_server(stored_in(database))
    server.add_bash()
    server.start()
    plain, busy, shared, moved = (
        server.create(f"{name}.ipynb") for name in ("plain", "busy", "shared", "moved")
    )
    console = server.create(
        "console", name="", type="console", kernel={"id": shared["kernel"]["id"]}
    )
    assert console["kernel"]["id"] == shared["kernel"]["id"]
    bash = server.create("bash.ipynb", kernel={"name": BASH})
    kernels = {str(one["kernel"]["id"]) for one in (plain, busy, shared, moved, bash)}
    assert len(kernels) == 5
    processes = {kernel_id: server.process_of(kernel_id).pid for kernel_id in kernels}
    for number, one in enumerate((plain, shared, moved)):
        server.execute(one["kernel"]["id"], f"x = {number}")
    server.execute(bash["kernel"]["id"], "x=3")
    server.execute(busy["kernel"]["id"], "import os, time")
    go = tmp_path / "go"
    number = max(len(ways), rounds(20))
    for turn in range(number):
        how = ways[turn % len(ways)]
        print(f"--- {turn}: {how}")
        server.model(server.patch(moved["id"], path=f"moved-{turn}.ipynb"), 200)
        before = known(server.sessions())
        channels = server.channels(busy["kernel"]["id"])
        request = channels.begin(
            f"while not os.path.exists({str(go)!r}): print('.'); time.sleep(0.05)\nprint({turn})"
        )
        until(lambda: server.kernel_state(busy["kernel"]["id"]) == "busy", why="it is busy")
        server.restart(how)
        assert known(server.sessions()) == before
        assert set(server.kernels()) == kernels
        # Its websocket opens while it is busy, and what it prints from now on arrives.
        with server.channels(busy["kernel"]["id"], join=False) as again:
            assert server.kernel_state(busy["kernel"]["id"]) == "busy"
            # What it prints before the websocket has its channel is lost, as ever.
            again.wait_for_output(request)
            go.touch()
            assert again.finish(request).endswith(f"{turn}\n")
        channels.close()
        go.unlink()
        until_stored(server, database)
        for place, one in enumerate((plain, shared, moved)):
            assert server.execute(one["kernel"]["id"], "x") == str(place)
        assert server.execute(bash["kernel"]["id"], "echo $x") == "3\n"
        found = {one: server.process_of(one).pid for one in kernels}
        assert found == processes
    print(f"{number} rounds")
    assert len(server.all_kernel_processes()) == 5
    check_no_faults(server)


#: What a widget begins with.
_COMM = "x = 5\nfrom comm import create_comm\nwidget = create_comm(target_name='widget')"
_COMMS = "len(get_ipython().kernel.comm_manager.comms)"
#: An error would have the kernel refuse what comes soon after.
_SLEEP = """
import subprocess
try:
    subprocess.run(["sleep", "600"])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_adopted_kernel_is_as_any_other(server: OutlivingServer) -> None:
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    server.execute(kernel_id, _COMM)
    ask_name = "import os\nprint(os.environ['JPY_SESSION_NAME'])"
    name = server.execute(kernel_id, ask_name)
    server.restart()
    assert server.execute(kernel_id, _COMMS) == "1"

    def state() -> str:
        return server.kernel_state(kernel_id)

    until(lambda: state() == "idle", why="it has said that it is idle")
    with server.channels(kernel_id) as channels:
        connected = server.api.get(f"/api/kernels/{kernel_id}").json()
        assert connected["connections"] == 1
        # Interrupted, and everything that it has started with it.
        request = channels.begin("import subprocess, time\nsubprocess.run(['sleep', '600'])")
        until(lambda: state() == "busy", why="it is busy")
        until(
            lambda: [one.name() for one in server.process_of(kernel_id).children()] == ["sleep"],
            why="it has started a process",
        )
        assert server.api.post(f"/api/kernels/{kernel_id}/interrupt").status_code == 204
        with pytest.raises(AssertionError, match="KeyboardInterrupt"):
            channels.finish(request)
        # The same websocket through an autorestart and a restart.
        first = server.process_of(kernel_id)
        first.kill()
        until(
            lambda: (server.record(kernel_id)["process"] or [first.pid])[0] != first.pid,
            why="it is restarted",
        )
        channels.rejoin()
        second = server.process_of(kernel_id)
        assert channels.execute("'x' in globals()") == "False"
        assert channels.execute("import os\nprint(os.getcwd())") == f"{server.root}\n"
        assert channels.execute(ask_name) == name
        assert server.api.post(f"/api/kernels/{kernel_id}/restart").status_code == 200
        channels.rejoin()
        third = server.process_of(kernel_id)
        assert channels.execute("y = 6\ny") == "6"
    assert len({first.pid, second.pid, third.pid}) == 3
    # What was restarted is found as what was not.
    server.restart()
    assert server.execute(kernel_id, "y") == "6"
    assert server.process_of(kernel_id) == third
    assert server.delete(session["id"]).status_code == 204
    until(lambda: has_ended(third), why="its kernel ends")
    assert list(server.records.iterdir()) == []
    assert list((server.directory / "runtime").glob("kernel-*")) == []
    check_no_faults(server)


def test_an_adopted_kernel_is_culled_after_a_full_time(
    database: Database, new_server: NewServer
) -> None:
    config = (
        "c.MappingKernelManager.cull_idle_timeout = 15\nc.MappingKernelManager.cull_interval = 1\n"
    )
    server = new_server(stored_in(database) + "\n")
    server.start()
    kernel_id = server.create("a.ipynb")["kernel"]["id"]
    process = server.process_of(kernel_id)
    server.end("SIGKILL")
    server.configure(stored_in(database) + "\n" + config)
    server.start()
    assert server.kernels() == [kernel_id]
    until(lambda: server.kernels() == [], why="it is culled")
    until(lambda: server.sessions() == [], why="its session goes")
    assert has_ended(process)
    assert list(server.records.iterdir()) == []


def test_kernels_that_died_meanwhile_are_gone_once(
    database: Database, server: OutlivingServer
) -> None:
    dead, alive = server.create("dead.ipynb"), server.create("alive.ipynb")
    process = server.process_of(dead["kernel"]["id"])
    server.end("SIGKILL")
    process.kill()
    until(lambda: has_ended(process), why="it has ended")
    server.start()
    assert known(server.sessions()) == known([alive])
    assert server.kernels() == [alive["kernel"]["id"]]
    until(lambda: stored(database) == known([alive]), why="its row goes")
    assert KernelFolder(server.records).kernel_ids() == [alive["kernel"]["id"]]
    server.restart()
    assert server.log.count(f"The kernel {dead['kernel']['id']} ended while it had no server") == 1
    check_no_faults(server)


def test_a_process_that_has_got_its_number_is_left_alone(
    database: Database, server: OutlivingServer
) -> None:
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    process = server.process_of(kernel_id)
    server.end("SIGKILL")
    process.kill()
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        _, started = server.record(kernel_id)["process"]
        server.change_record(kernel_id, process=[other.pid, started])
        server.start()
        assert server.sessions() == []
        assert server.kernels() == []
        assert list(server.records.iterdir()) == []
        until(lambda: stored(database) == [], why="its row goes")
        server.end("SIGTERM")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_without_its_database(losing: LosingDatabase, new_server: NewServer) -> None:
    """Neither an outage nor a lost database loses a session."""
    database = losing.database
    server = new_server(f"c.SessionManager.database_filepath = {losing.url!r}\n")
    server.start()
    kept, renamed, deleted = (server.create(f"{name}.ipynb") for name in ("a", "b", "c"))
    # A file that is moved away may be anything: then no server starts.
    away = losing.read_only if database.kind == "sqlite" else losing.stopped
    with away():
        server.model(server.patch(renamed["id"], path="renamed.ipynb"), 200)
        server.delete(deleted["id"])
        new = server.create("new.ipynb")
        server.restart()
        before = known(server.sessions())
        assert [one[1] for one in before] == ["a.ipynb", "renamed.ipynb", "new.ipynb"]
        # The ids are free at once.
        server.model(server.patch(kept["id"], path="again.ipynb"), 200)
        server.restart("SIGTERM")
        assert known(server.sessions())[0][1] == "again.ipynb"
        assert server.execute(new["kernel"]["id"], "1 + 1") == "2"
    until(lambda: stored(database) == known(server.sessions()), why="the rows are what is listed")
    server.end("SIGKILL")
    database.execute("DELETE FROM jupyter_sessions")
    database.execute("DELETE FROM jupyter_servers")
    server.start()
    until(lambda: stored(database) == known(server.sessions()), why="the rows are what is listed")
    assert len(server.sessions()) == 3
    check_no_faults(server)


def test_nobody_else_reads_what_is_recorded(server: OutlivingServer, database: Database) -> None:
    kernel_id = server.create("a.ipynb", kernel={"name": "python3"})["kernel"]["id"]
    server.execute(kernel_id, "print('said to nobody')")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.records.iterdir()}
    assert modes == {f"{kernel_id}.{kind}": 0o600 for kind in ("json", "lock", "log")}
    for folder in (server.records, server.records.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == os.getuid()
    connection = json.loads(Path(server.record(kernel_id)["connection_file"]).read_text())
    texts = [path.read_text() for path in server.records.iterdir()]
    texts.append(repr(database.rows("SELECT * FROM jupyter_sessions")))
    texts.append(repr(database.rows("SELECT * FROM jupyter_servers")))
    for text in texts:
        assert connection["key"] not in text
        assert str(connection["shell_port"]) not in json.dumps(server.record(kernel_id))
        assert "PATH" not in text
        assert server.token not in text
