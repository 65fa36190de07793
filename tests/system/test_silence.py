"""A database that goes silent in each way, and comes back: how long it takes, and what it costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
import pytest

from ..databases import Database, Instance
from ..databases.local import claimed_port
from .cable import Cable
from .cluster import light_replica_config
from .faults import store_lines
from .gateway import Gateway
from .parity import LIGHT_KERNEL, add_light_kernel, light_config, light_gateway
from .patroni import Node, patroni_cluster
from .server import JupyterServer
from .test_outages import are_stored
from .waiting import until
from .working import Worker, is_back, working

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("databases that go silent"),
    pytest.mark.timeout(600),
]

NewServer = Callable[..., JupyterServer]
#: Seconds: longer than a request waits for the store.
SILENCE: Final = 15.0
#: Seconds that a request waits for the store, as the documentation says, and for a kernel that is
#: started first on a busy machine.
BOUNDS: Final = {"server": 1.0 + 10.0, "gateway": 10.0 + 10.0}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with light_gateway() as gateway:
        yield gateway


@pytest.fixture
def new_worker(
    gateway: Gateway, new_server: NewServer, tmp_path: Path
) -> Callable[[str, str], Worker]:
    """A function that starts a server, which has a session, and returns a user of it."""

    def new(url: str, authority: str) -> Worker:
        config = light_config(f"c.SessionManager.database_filepath = {url!r}\n")
        if authority == "gateway":
            config = light_replica_config(url, gateway)
        server = new_server(config, root=tmp_path)
        add_light_kernel(server, LIGHT_KERNEL)
        server.start()
        server.create(f"first-{authority}.ipynb")
        return Worker(server, authority, 1, may_be_refused=authority == "gateway")

    return new


class Silent:
    """A database server that can go silent, through a cable.

    Parameters
    ----------
    database : Database
    instance : Instance
    """

    def __init__(self, database: Database, instance: Instance) -> None:
        self.database = database
        self._instance = instance
        self._claim = claimed_port()
        port = self._claim.getsockname()[1]
        parts = urlsplit(database.url)
        assert parts.port is not None
        self.cable = Cable((port, parts.port))
        login = parts.netloc.rpartition("@")[0]
        self.url = parts._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()

    def close(self) -> None:
        self.cable.close()
        self._claim.close()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self._instance.freeze()
        try:
            yield
        finally:
            self._instance.thaw()

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        self.cable.cut()
        yield
        self.cable.mend()

    @contextmanager
    def half_open(self) -> Iterator[None]:
        """Lose the connections that there are, and say so to neither side; new ones are well."""
        self.cable.freeze()
        yield

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """Let MariaDB or MySQL commit no change, as with a disk that takes nothing any more."""
        stages = ("START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT")
        statements = [f"BACKUP STAGE {stage}" for stage in stages]
        if "MariaDB" not in self.database.rows("SELECT version()")[0][0]:
            statements = ["FLUSH TABLES WITH READ LOCK"]
        # Whatever it holds ends with the connection.
        with closing(self.database.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            yield


@pytest.fixture
def silent(own_server: Instance) -> Iterator[Silent]:
    silent = Silent(own_server.create_database(), own_server)
    yield silent
    silent.close()


def check(
    workers: list[Worker], database: Database, silence: Callable[[], object], what: str
) -> None:
    """Let all work through a silence."""
    for worker in workers:
        worker.answers.clear()
    with working(workers):
        time.sleep(0.5)
        began = time.monotonic()
        silence()
        over = time.monotonic()
        for worker in workers:
            until(lambda worker=worker: is_back(worker.server), why="it is back")  # type: ignore[misc]
        time.sleep(0.5)
    servers = [worker.server for worker in workers]
    until(lambda: are_stored(servers, database), why="each session is stored")
    for worker in workers:
        worker.check(worker.server.api.get("/api/sessions"))
        print(
            f"{sum(worker.answers.values())} requests, {what} for {over - began:.1f} s, kernels of "
            f"a {worker.name}: {worker.acknowledged} changes acknowledged, 0 missing, "
            f"{worker.refused} answers 503, the slowest answer {worker.slowest:.1f} s, longest gap "
            f"{worker.gap():.1f} s, answered {worker.seconds_since(over):.1f} s after it"
        )
        assert worker.slowest < BOUNDS[worker.name]
        assert worker.server.own_frames() == []
        assert worker.server.uncaught() == []


@pytest.mark.only("postgresql", "mysql", reason="SQLite is reached through no network")
@pytest.mark.parametrize("way", ["stopped", "unplugged", "half_open"])
def test_a_database_that_goes_silent(
    way: str, silent: Silent, new_worker: Callable[[str, str], Worker]
) -> None:
    workers = [new_worker(silent.url, authority) for authority in BOUNDS]
    before = silent.cable.connections()[0]

    def silence() -> None:
        with getattr(silent, way)():
            if way != "half_open":
                time.sleep(SILENCE)

    check(workers, silent.database, silence, f"{silent.database.kind} {way.replace('_', ' ')}")
    print(f"{silent.cable.connections()[0] - before} connections")
    if way == "half_open":
        assert [store_lines(worker.server.log) for worker in workers] == [[], []]


@pytest.mark.only("mysql", reason="the storage of PostgreSQL is stuck under Patroni")
def test_storage_that_takes_nothing(
    silent: Silent, new_worker: Callable[[str, str], Worker]
) -> None:
    workers = [new_worker(silent.url, authority) for authority in BOUNDS]

    def silence() -> None:
        with silent.stuck():
            time.sleep(SILENCE)

    check(workers, silent.database, silence, "mysql stuck")


@contextmanager
def stuck(leader: Node, database: Database) -> Iterator[None]:
    """Hold whoever works for a client, as a disk that does not answer: Patroni only reads."""
    ended = threading.Event()

    def hold() -> None:
        while not ended.wait(0.02):
            for process in leader.backends(database):
                with suppress(psutil.NoSuchProcess):
                    process.suspend()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        leader.thaw()


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    node.freeze()
    try:
        yield
    finally:
        node.thaw()


def test_silence_in_which_the_leader_stays(new_worker: Callable[[str, str], Worker]) -> None:
    """No failover ends it: the leader's storage is stuck; the synchronous standby is stopped."""
    with patroni_cluster(synchronous=True) as cluster:
        workers = [new_worker(cluster.url_of_hosts, authority) for authority in BOUNDS]
        leader, standby = cluster.wait_until_whole()
        database = cluster.database
        for what, silent in {
            "the storage of the leader stuck": stuck(leader, database),
            "the synchronous standby stopped": frozen(standby),
        }.items():

            def silence(silent: AbstractContextManager[None] = silent) -> None:
                with silent:
                    time.sleep(SILENCE)
                    assert cluster.leader() is leader, "it leads all the while"

            check(workers, database, silence, what)
            cluster.wait_until_whole()
