"""Several servers of one namespace on one machine: a kernel has one owner, and goes home to it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Final

import httpx
import pytest

from ..databases import Database
from .conftest import stored_in
from .outliving import ENDS, OutlivingServer
from .parity import light_config
from .rows import rows_of
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.only(
        "sqlite", "postgresql", reason="kernels on this machine: with a file and with a server"
    ),
]

NewServer = Callable[..., OutlivingServer]
Neighbours = Callable[[str], OutlivingServer]

#: It looks for kernels often, and counts its looks in a file; another says by how much its clock,
#: which says how long a kernel has had no owner, is ahead.
_LOOKING: Final = """
import os
from pathlib import Path
from jupyter_session_store.kernels.outliving import manager
from jupyter_session_store.kernels.outliving.adoption import Search

manager._MAINTENANCE = 0.1
folder = Path({folder!r})
find = Search.find

def find_and_count(self, *arguments, **named):
    ahead = folder / "ahead"
    # Only the test has it go on.
    self.clock = lambda: {began} + (float(ahead.read_text()) if ahead.exists() else 0)
    found = find(self, *arguments, **named)
    with (folder / f"looks-{{os.getpid()}}").open("a") as file:
        file.write(".")
    return found

Search.find = find_and_count
"""


def looking(folder: Path) -> str:
    """Return the configuration of a server whose looks are counted, at the time of a test."""
    return _LOOKING.format(folder=str(folder), began=monotonic())


@pytest.fixture
def new_neighbour(database: Database, new_outliving_server: NewServer) -> Neighbours:
    """A function that makes one more server of the same namespace on the same machine."""
    made: list[OutlivingServer] = []

    def new(config: str) -> OutlivingServer:
        first = made[0] if made else None
        server = new_outliving_server(
            light_config(f"{stored_in(database)}\n{config}"),
            runtime=first and first.runtime,
            root=first and first.root,
        )
        server.add_light_kernel()
        made.append(server)
        return server

    return new


def ids(server: OutlivingServer) -> list[tuple[str, str, str]]:
    """Return what a server says of its sessions."""
    return sorted((one["id"], one["path"], one["kernel"]["id"]) for one in server.sessions())


def stored(database: Database) -> list[tuple[str, str, str]]:
    """Return the same of what is stored."""
    return sorted((one.session_id, str(one.path), one.kernel_id) for one in rows_of(database))


def check_no_faults(*servers: OutlivingServer) -> None:
    for server in servers:
        assert server.own_frames() == []
        assert server.uncaught() == []


def holders(server: OutlivingServer) -> dict[str, list[int]]:
    """Return which processes have the lock of each kernel, as the system says."""
    by_file: defaultdict[int, list[int]] = defaultdict(list)
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK":
            by_file[int(words[5].rpartition(":")[2])].append(int(words[4]))
    return {path.stem: by_file[path.stat().st_ino] for path in server.records.glob("*.lock")}


@contextmanager
def watched(*servers: OutlivingServer) -> Iterator[None]:
    """Check all the time that no two servers list one kernel."""
    ended = Event()

    def watch() -> int:
        looks = 0
        while True:
            seen: list[str] = []
            for server in servers:
                # One that is down lists none.
                with suppress(httpx.TransportError):
                    seen += server.kernels()
            assert len(seen) == len(set(seen)), "a kernel has two owners"
            looks += 1
            if ended.wait(0.05):
                return looks

    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            yield
        finally:
            ended.set()
        assert watching.result() > 0


class Owners:
    """Servers, and what belongs to each.

    Parameters
    ----------
    servers : sequence of OutlivingServer
        Running.
    """

    def __init__(self, *servers: OutlivingServer) -> None:
        self.servers = servers
        self._threads = ThreadPoolExecutor(len(servers))

    def on_all(self, act: Callable[[OutlivingServer], object], *servers: OutlivingServer) -> None:
        """Do something with some servers at once."""
        list(self._threads.map(act, servers))

    def close(self) -> None:
        """End the threads; the servers are their maker's."""
        self._threads.shutdown()

    def check(self) -> None:
        """Check that each kernel is listed once, by who has its lock, and runs."""
        kernels = {one: server for server in self.servers for one in server.kernels()}
        assert len(kernels) == sum(len(server.kernels()) for server in self.servers)
        first = self.servers[0]
        owners = {one: server.pid for one, server in kernels.items()}
        assert holders(first) == {one: [pid] for one, pid in owners.items()}
        assert {one: first.record(one)["owner"][0] for one in kernels} == owners
        running = sorted(process.pid for process in first.all_kernel_processes())
        assert running == sorted(first.process_of(one).pid for one in kernels)


@pytest.mark.torture
def test_servers_are_killed_and_started_in_turn_and_at_once(
    database: Database,
    new_neighbour: Neighbours,
    rounds: Callable[[int], int],
    seed: int,
) -> None:
    chance = random.Random(seed)
    servers = [new_neighbour("") for _ in range(2)]
    owners = Owners(*servers)
    owners.on_all(OutlivingServer.start, *servers)
    for number, server in enumerate(servers):
        for name in ("kept", "changing"):
            server.create(f"{name}-{number}.ipynb")
    number = rounds(50)
    with watched(*servers):
        for turn in range(number):
            for server in servers:
                # Something changes, and then it ends before much is said of it elsewhere.
                changing = next(one for one in server.sessions() if "kept" not in one["path"])
                if chance.random() < 0.3:
                    assert server.delete(changing["id"]).status_code == 204
                    server.create(f"new-{server.port}-{turn}.ipynb")
                else:
                    server.model(server.patch(changing["id"], path=f"{server.port}-{turn}"), 200)
            before = {server: ids(server) for server in servers}
            # One that has just been started has no command for a moment.
            until(lambda: len(servers[0].all_kernel_processes()) == 4, why="all have started")
            processes = {one.pid for one in servers[0].all_kernel_processes()}
            ending = chance.sample(servers, chance.choice([1, 2, 2]))
            ways = {one: chance.choice(["SIGKILL", *ENDS]) for one in ending}
            print(f"--- {turn}: {[(one.port, how) for one, how in ways.items()]}")
            if chance.random() < 0.5:
                for server in ending:
                    server.end(ways[server])
                owners.on_all(OutlivingServer.start, *ending)
            else:
                owners.on_all(lambda one, ways=ways: one.end(ways[one]), *ending)  # type: ignore[misc]
                for server in chance.sample(ending, len(ending)):
                    server.start()
            assert {server: ids(server) for server in servers} == before
            assert {one.pid for one in servers[0].all_kernel_processes()} == processes
            owners.check()
    everything = sorted(one for server in servers for one in ids(server))
    until(
        lambda: (
            sorted((str(one[0]), str(one[1]), str(one[4])) for one in rows_of(database))
            == everything
        ),
        why="the rows are what is listed",
    )
    print(f"{number} rounds")
    owners.close()
    check_no_faults(*servers)


class Time:
    """What the servers of :data:`_LOOKING` take for the time, and when they have looked.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ahead = 0

    def go_on(self, seconds: int) -> None:
        """Have all clocks go on."""
        self._ahead += seconds
        new = self._folder / "new"
        new.write_text(str(self._ahead))
        new.replace(self._folder / "ahead")

    def look(self, *servers: OutlivingServer) -> None:
        """Wait until each server has looked some times more."""
        before = {server: self._looks(server) for server in servers}
        until(
            lambda: all(self._looks(one) >= count + 3 for one, count in before.items()),
            why="they look",
        )

    def _looks(self, server: OutlivingServer) -> int:
        looks = self._folder / f"looks-{server.pid}"
        return looks.stat().st_size if looks.exists() else 0


def test_a_kernel_waits_a_lease_for_its_own_server(
    database: Database, new_neighbour: Neighbours, tmp_path: Path
) -> None:
    """Then another takes it; of several, one."""
    home, *others = servers = [new_neighbour(looking(tmp_path)) for _ in range(3)]
    owners, time = Owners(*servers), Time(tmp_path)
    home.start()
    home.create("a.ipynb")
    session = ids(home)
    process = home.process_of(session[0][2])
    home.end("SIGKILL")
    owners.on_all(OutlivingServer.start, *others)
    time.look(*others)
    time.go_on(80)
    time.look(*others)
    assert [ids(one) for one in others] == [[], []]
    home.start()
    assert ids(home) == session
    # That it has been away before does not count.
    time.look(*others)
    home.end("SIGTERM")
    time.look(*others)
    time.go_on(80)
    time.look(*others)
    assert [ids(one) for one in others] == [[], []]
    time.go_on(20)
    with watched(*others):
        time.look(*others)
    assert sorted(ids(one) for one in others) == [[], session]
    # It is the taker's from now on.
    taker, waiting = sorted(others, key=ids, reverse=True)
    home.start()
    taker.restart()
    time.look(*servers)
    assert [ids(one) for one in (home, taker, waiting)] == [[], session, []]
    owners.check()
    # Until that one is away.
    taker.end("SIGKILL")
    waiting.end("SIGKILL")
    time.look(home)
    time.go_on(100)
    until(lambda: ids(home) == session, why="it is taken back")
    assert home.process_of(session[0][2]) == process
    until(lambda: stored(database) == session, why="the rows are what is listed")
    owners.close()
    check_no_faults(*servers)


@pytest.mark.only("sqlite", reason="how kernels are recorded, whatever the store")
def test_two_starts_at_one_place(
    database: Database, new_neighbour: Neighbours, tmp_path: Path
) -> None:
    """Who gets the port has the kernels, though the other one has got the locks."""
    server = new_neighbour(looking(tmp_path))
    server.start()
    server.create("a.ipynb")
    session = ids(server)
    server.end("SIGKILL")
    go = tmp_path / "go"
    waits = (
        "from jupyter_session_store.kernels.outliving.manager import PersistentKernelManager\n"
        "import pathlib, time\n"
        "adopt = PersistentKernelManager._adopt\n"
        "def adopt_and_wait(self, found):\n"
        "    adopt(self, found)\n"
        f"    while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)\n"
        "PersistentKernelManager._adopt = adopt_and_wait\n"
    )
    late = new_neighbour(f"c.ServerApp.port = {server.port}\n{waits}")
    late.launch()
    until(lambda: server.record(session[0][2])["owner"][0] == late.pid, why="it has got the lock")
    server.start()
    assert ids(server) == []
    go.touch()
    assert late.exit_code() != 0
    until(lambda: ids(server) == session, why="it has got the lock")
    Owners(server).check()
    check_no_faults(server)
