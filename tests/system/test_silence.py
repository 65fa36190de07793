"""A database that goes silent in each way, and comes back: how long it takes, and what it costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
import pytest

from ..databases import Database, Instance
from ..databases.local import claimed_port
from .cable import Cable
from .cluster import KERNEL_MANAGER
from .faults import store_lines
from .gateway import Gateway
from .parity import LIGHT_KERNEL, add_light_kernel, light_config
from .patroni import PatroniCluster, patroni_cluster
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
    gateway = Gateway(light_config(""))
    add_light_kernel(gateway, LIGHT_KERNEL)
    gateway.start()
    yield gateway
    gateway.close()


@pytest.fixture
def new_worker(
    gateway: Gateway, new_server: NewServer, tmp_path: Path
) -> Callable[[str, str], Worker]:
    """A function that starts a server, which has a session, and returns a user of it."""

    def new(url: str, authority: str) -> Worker:
        config = light_config(f"c.SessionManager.database_filepath = {url!r}\n")
        if authority == "gateway":
            config += (
                f"{gateway.client_config}{KERNEL_MANAGER}"
                f"c.MultiKernelManager.default_kernel_name = {LIGHT_KERNEL!r}\n"
            )
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


@pytest.fixture
def silent(own_server: Instance) -> Iterator[Silent]:
    silent = Silent(own_server.create_database(), own_server)
    yield silent
    silent.close()


def check(
    workers: list[Worker], database: Database, silence: Callable[[], object], what: str
) -> float:
    """Let all work through a silence; return when it was over."""
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
    return over


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


@pytest.fixture(scope="module")
def synchronous() -> Iterator[PatroniCluster]:
    with patroni_cluster(synchronous=True) as cluster:
        yield cluster


def test_storage_that_is_stuck(
    synchronous: PatroniCluster, new_worker: Callable[[str, str], Worker]
) -> None:
    """Whoever writes waits for the disk, where nothing interrupts it; Patroni only reads."""
    leader, _ = synchronous.wait_until_whole()
    database = synchronous.database
    workers = [new_worker(synchronous.url_of_hosts, authority) for authority in BOUNDS]
    ended = threading.Event()

    def hold() -> None:
        while not ended.wait(0.02):
            for process in leader.backends(database):
                with suppress(psutil.NoSuchProcess):
                    process.suspend()

    def silence() -> None:
        thread = threading.Thread(target=hold)
        with ExitStack() as stack:
            stack.callback(leader.thaw)
            stack.callback(thread.join)
            stack.callback(ended.set)
            thread.start()
            time.sleep(SILENCE)
            assert synchronous.leader() is leader, "it leads all the while"

    check(workers, database, silence, "storage of the leader stuck")


def test_a_synchronous_standby_that_is_silent(
    synchronous: PatroniCluster, new_worker: Callable[[str, str], Worker]
) -> None:
    """PostgreSQL waits for it until Patroni, or the database's own time-out, gives it up."""
    _, standby = synchronous.wait_until_whole()
    workers = [new_worker(synchronous.url_of_hosts, authority) for authority in BOUNDS]

    def silence() -> None:
        standby.freeze()
        try:
            time.sleep(SILENCE)
        finally:
            standby.thaw()

    check(workers, synchronous.database, silence, "synchronous standby stopped")
    synchronous.wait_until_whole()
