"""Replicas of one server behind a balancer, their kernels on a gateway, their sessions shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from ..databases import Database
from .balancer import Balancer
from .conftest import stored_in
from .gateway import Gateway
from .parity import LIGHT_KERNEL, light_config
from .rows import rows_of
from .server import JupyterServer
from .waiting import until

#: Seconds. So short that a test can wait for it, and long enough for a busy machine.
LEASE = 5

KERNEL_MANAGER = (
    "c.ServerApp.kernel_manager_class ="
    " 'jupyter_session_store.gateway.PersistentGatewayKernelManager'\n"
)


def replica_config(database: Database, gateway: Gateway) -> str:
    """Return what all replicas of a server have in their configuration."""
    return (
        f"{stored_in(database)}\n{gateway.client_config}{KERNEL_MANAGER}"
        "c.ServerApp.cookie_secret = b'the same on every replica'\n"
        f"c.PersistentSessionManager.lease_seconds = {LEASE}\n"
        # A gateway takes as long at most.
        "c.GatewayClient.request_timeout = 20\n"
    )


def light_replica_config(url: str, gateway: Gateway) -> str:
    """Return the configuration of a server whose light kernels are a gateway's."""
    return light_config(
        f"c.SessionManager.database_filepath = {url!r}\n{gateway.client_config}{KERNEL_MANAGER}"
        f"c.MultiKernelManager.default_kernel_name = {LIGHT_KERNEL!r}\n"
    )


@dataclass(frozen=True)
class Cluster:
    """What runs, and where its sessions are.

    Parameters
    ----------
    database : Database
    gateway : Gateway
    replicas : sequence of JupyterServer
    front : Balancer
        Before the replicas.
    """

    database: Database
    gateway: Gateway
    replicas: Sequence[JupyterServer]
    front: Balancer

    def balance(self) -> None:
        """Wait until the balancer sends requests to every replica."""
        wanted = {replica.pid for replica in self.replicas}
        until(lambda: self._seen(2 * len(wanted)) == wanted, why="each replica is asked")

    def _seen(self, number: int) -> set[int]:
        """Return who answers so many requests."""
        pids = set()
        for _ in range(number):
            answer = self.front.api.get("/api/status")
            if answer.status_code == 200:
                pids.add(self._by_start[answer.json()["started"]])
        return pids

    @property
    def _by_start(self) -> dict[str, int]:
        return {
            replica.api.get("/api/status").json()["started"]: replica.pid
            for replica in self.replicas
        }

    def settle(self) -> list[str]:
        """Wait until sessions, kernels and lists are the same; return the sessions' ids."""
        until(self._is_settled, why="no kernel is without a session, no session without one")
        return [row.session_id for row in rows_of(self.database)]

    def _is_settled(self) -> bool:
        rows = rows_of(self.database)
        ids = [row.session_id for row in rows]
        kernels = {row.kernel_id for row in rows}
        return (
            all(row.state == "ready" for row in rows)
            and self.gateway.hosts(len(kernels))
            and set(self.gateway.kernels()) == kernels
            and all([m["id"] for m in replica.sessions()] == ids for replica in self.replicas)
        )

    def check(self) -> None:
        """Check that no replica has met an error that nobody caught."""
        for replica in self.replicas:
            assert replica.uncaught() == [], replica.log[-5000:]
            assert replica.own_frames() == [], replica.log[-5000:]


@contextmanager
def cluster(
    database: Database,
    root: Path,
    number: int = 2,
    *,
    more: str = "",
    new_gateway: Callable[[], Gateway] = Gateway,
) -> Iterator[Cluster]:
    """Start a gateway, so many replicas (with more configuration) and a balancer."""
    with ExitStack() as stack:
        gateway = new_gateway()
        stack.callback(gateway.close)
        gateway.start()
        config, token = replica_config(database, gateway) + more, uuid4().hex
        replicas = []
        for _ in range(number):
            replicas.append(JupyterServer(config, root=root, token=token))
            stack.callback(replicas[-1].close)
            replicas[-1].launch()
        for replica in replicas:
            replica.wait()
        front = Balancer(replicas)
        stack.callback(front.close)
        front.start()
        made = Cluster(database, gateway, replicas, front)
        made.balance()
        try:
            yield made
        except BaseException:
            for process in (gateway, *replicas):
                print(f"--- {process.url}\n{process.log[-20000:]}")
            raise
