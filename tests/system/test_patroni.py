"""PostgreSQL under Patroni, whose leader goes away in each way that one can, under load."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from .cluster import KERNEL_MANAGER
from .gateway import Gateway
from .parity import LIGHT_KERNEL, add_light_kernel, light_config, light_gateway
from .patroni import TTL, Node, PatroniCluster, patroni_cluster
from .server import JupyterServer
from .waiting import until
from .working import Worker, is_back, settle, working

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("PostgreSQL under Patroni"),
    pytest.mark.timeout(2400),
]

NewServer = Callable[..., JupyterServer]
#: Seconds: longer than a server holds on to a connection that hangs, and until its next renewal.
LEASE: Final = 15
#: Seconds, much more than a failover takes.
PATIENCE: Final = 3 * TTL + 60.0
#: Seconds that a request waits for the store, as the documentation says, and for a kernel that is
#: started first on a busy machine.
BOUNDS: Final = {"server": 1.0 + 10.0, "gateway": 10.0 + 10.0}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with light_gateway() as gateway:
        yield gateway


@contextmanager
def killed(cluster: PatroniCluster, leader: Node) -> Iterator[None]:
    leader.kill()
    yield
    leader.start()


@contextmanager
def stopped(cluster: PatroniCluster, leader: Node) -> Iterator[None]:
    """It goes on where it was, and takes itself for the leader until Patroni has looked."""
    leader.freeze()
    yield
    leader.thaw()


@contextmanager
def switched_over(cluster: PatroniCluster, leader: Node) -> Iterator[None]:
    cluster.switch_over(leader)
    yield


@contextmanager
def half_open(cluster: PatroniCluster, leader: Node) -> Iterator[None]:
    """Switch over, and let no client hear that its connection has ended."""
    leader.outside.freeze()
    cluster.switch_over(leader)
    yield


@contextmanager
def unplugged(cluster: PatroniCluster, leader: Node) -> Iterator[None]:
    for cable in (leader.outside, leader.inside):
        cable.cut()
    yield
    for cable in (leader.inside, leader.outside):
        cable.mend()


@contextmanager
def partitioned(cluster: PatroniCluster, leader: Node) -> Iterator[None]:
    """Its clients reach it, and go on to write, until it notices that nobody follows it."""
    leader.inside.cut()
    yield
    leader.inside.mend()


WAYS: Final = {
    way.__name__.replace("_", " "): way
    for way in (killed, stopped, switched_over, half_open, unplugged, partitioned)
}


#: Where the rounds are few, with a synchronous standby and without: each kind once, since all but
#: a switch-over take half a minute until Patroni has noticed, and as long until all is whole.
ONCE: Final = {
    False: ["killed", "switched over", "unplugged"],
    True: ["stopped", "switched over"],
}


@dataclass
class Tally:
    """What has come out of all failovers of one way, of the servers of one kind."""

    acknowledged: int = 0
    refused: int = 0
    gap: float = 0.0
    #: Seconds until the last server has answered, after each promotion, by how they reach it.
    after_promotion: dict[str, float] = field(default_factory=dict)

    def add(self, workers: list[Worker], promoted: float) -> None:
        for worker in workers:
            self.acknowledged += worker.acknowledged
            self.refused += worker.refused
            self.gap = max(self.gap, worker.gap())
            seconds = max(self.after_promotion.get(worker.by, 0.0), worker.seconds_since(promoted))
            self.after_promotion[worker.by] = seconds
            worker.answers.clear()

    def __str__(self) -> str:
        after = ", ".join(f"{s:.1f} s by {by}" for by, s in self.after_promotion.items())
        return (
            f"{self.acknowledged} changes acknowledged, 0 missing, 0 doubled, {self.refused} "
            f"answers 503, longest gap {self.gap:.1f} s; first answer after the promotion: {after}"
        )


def promoted_at(node: Node) -> float:
    """Wait until a node leads, and return when that was."""
    deadline = time.monotonic() + PATIENCE
    while node.is_in_recovery():
        assert time.monotonic() < deadline, "it is not promoted"
        time.sleep(0.02)
    return time.monotonic()


@pytest.mark.torture
@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
def test_a_leader_goes_away_under_load(
    synchronous: bool,
    gateway: Gateway,
    new_server: NewServer,
    rounds: Callable[[int], int],
    seed: int,
    tmp_path: Path,
) -> None:
    number, chance = rounds(5), random.Random(seed)
    ways = ONCE[synchronous] if number == 1 else sorted(WAYS)
    tallies = {(way, authority): Tally() for way in ways for authority in BOUNDS}
    with patroni_cluster(synchronous=synchronous) as cluster:
        servers, workers = start_servers(cluster, gateway, new_server, seed, tmp_path)
        registered = sorted(cluster.database.rows("SELECT pid, server_id FROM jupyter_servers"))
        for turn in range(number):
            for way in chance.sample(ways, len(ways)):
                leader, standby = cluster.wait_until_whole()
                connections = cluster.connections()
                print(f"{turn}: {way}: {leader.name} leads", flush=True)
                with working([*workers["server"], *workers["gateway"]]), ExitStack() as stack:
                    time.sleep(chance.uniform(0.5, 1.5))
                    watcher = stack.enter_context(ThreadPoolExecutor(1))
                    promotion = watcher.submit(promoted_at, standby)
                    began = time.monotonic()
                    with WAYS[way](cluster, leader):
                        promoted = promotion.result()
                        for server in servers:
                            until(
                                lambda server=server: is_back(server),  # type: ignore[misc]
                                why="it is back",
                                patience=PATIENCE,
                            )
                        time.sleep(chance.uniform(0.0, 1.0))
                    cluster.wait_until_whole()
                    whole = time.monotonic()
                    time.sleep(chance.uniform(0.0, 1.0))
                for authority, some in workers.items():
                    tallies[way, authority].add(some, promoted)
                print(
                    f"promoted after {promoted - began:.1f} s, whole after {whole - began:.1f} s; "
                    f"{cluster.connections() - connections} connections",
                    flush=True,
                )
                settle(workers, gateway, cluster.database)
        # Longer than a lease after the last failover: nobody was taken for dead.
        time.sleep(1.5 * LEASE)
        assert (
            sorted(cluster.database.rows("SELECT pid, server_id FROM jupyter_servers"))
            == registered
        )
        settle(workers, gateway, cluster.database)
    for server in servers:
        assert "Evicted" not in server.log
        assert server.own_frames() == []
        assert server.uncaught() == []
    kind = "synchronous" if synchronous else "asynchronous"
    for (way, authority), tally in tallies.items():
        print(f"{number} rounds, {kind}, {way}, kernels of a {authority}: {tally}")
        assert authority == "gateway" or tally.refused == 0
    if number > 1:
        # Beside other tests no server answers in time.
        for authority, some in workers.items():
            assert max(worker.slowest for worker in some) < BOUNDS[authority]


def start_servers(
    cluster: PatroniCluster, gateway: Gateway, new_server: NewServer, seed: int, root: Path
) -> tuple[list[JupyterServer], dict[str, list[Worker]]]:
    """Start three servers with kernels of their own, and three with the gateway's."""
    urls = {"hosts": cluster.url_of_hosts, "proxy": cluster.url_of_proxy}
    servers: list[JupyterServer] = []
    workers: dict[str, list[Worker]] = {authority: [] for authority in BOUNDS}
    for authority, some in workers.items():
        for by in ("hosts", "proxy", "hosts"):
            config = light_config(
                f"c.SessionManager.database_filepath = {urls[by]!r}\n"
                f"c.PersistentSessionManager.lease_seconds = {LEASE}\n"
            )
            if authority == "gateway":
                config += (
                    f"{gateway.client_config}{KERNEL_MANAGER}"
                    f"c.MultiKernelManager.default_kernel_name = {LIGHT_KERNEL!r}\n"
                )
            server = new_server(config, root=root)
            if authority == "server":
                add_light_kernel(server, LIGHT_KERNEL)
            server.start()
            place = len(servers)
            server.create(f"first-{place}.ipynb")
            servers.append(server)
            refused = authority == "gateway"
            some.append(Worker(server, f"client-{place}", seed + place, refused, by=by))
    return servers, workers
