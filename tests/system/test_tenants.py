"""Two users on one gateway and one database: neither sees, uses or ends the other's kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import websocket

from ..databases import Database
from .client import Model
from .cluster import replica_config
from .gateway import Gateway
from .rows import rows_of
from .server import JupyterServer
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.spread,
    pytest.mark.timeout(300),
    pytest.mark.only(
        "sqlite", "postgresql", reason="a shared file and a server: every verb is tried on each"
    ),
]

NewServer = Callable[..., JupyterServer]


@dataclass
class Tenant:
    """A user's server, and a session of it."""

    server: JupyterServer
    session: Model

    @property
    def kernel_id(self) -> str:
        """The kernel of the session."""
        kernel_id: str = self.session["kernel"]["id"]
        return kernel_id


@dataclass
class House:
    """What the tenants share."""

    database: Database
    gateway: Gateway
    tenants: tuple[Tenant, Tenant]

    @property
    def kernels(self) -> list[str]:
        """All kernels, in order."""
        return sorted(tenant.kernel_id for tenant in self.tenants)


@pytest.fixture
def house(database: Database, new_server: NewServer, tmp_path: Path) -> Iterator[House]:
    with ExitStack() as stack:
        gateway = Gateway()
        stack.callback(gateway.close)
        gateway.start()
        tenants = []
        for name in ("alice", "bob"):
            root = tmp_path / name
            root.mkdir()
            config = (
                f"c.PersistentSessionManager.namespace = {name!r}\n"
                # What a server cannot know it must not do.
                "c.MappingKernelManager.cull_idle_timeout = 1\n"
                "c.MappingKernelManager.cull_interval = 1\n"
            )
            server = new_server(replica_config(database, gateway) + config, root=root)
            server.start()
            session = server.create("same.ipynb")
            server.execute(session["kernel"]["id"], f"me = {name!r}")
            tenants.append(Tenant(server, session))
        yield House(database, gateway, (tenants[0], tenants[1]))
        print(gateway.log)


def check_own(tenant: Tenant, name: str) -> None:
    """Check that a tenant has what is the tenant's own, and no more."""
    server = tenant.server
    assert [model["id"] for model in server.sessions()] == [tenant.session["id"]]
    assert server.kernels() == [tenant.kernel_id]
    assert server.execute(tenant.kernel_id, "print(me)") == f"{name}\n"


def check_foreign(server: JupyterServer, own: Tenant, other: Tenant) -> None:
    """Try every way to another's kernel."""
    theirs = other.kernel_id
    where = f"/api/kernels/{theirs}"
    assert server.api.get(where).status_code == 404
    assert server.api.delete(where).status_code == 404
    assert server.api.post(f"{where}/interrupt").status_code == 404
    assert server.api.post(f"{where}/restart").status_code == 404
    with pytest.raises(websocket.WebSocketBadStatusException, match="404"):
        server.channels(theirs)
    assert server.get(other.session["id"]).status_code == 404
    assert server.patch(other.session["id"], path="stolen.ipynb").status_code == 404
    assert server.delete(other.session["id"]).status_code == 404
    assert server.patch(own.session["id"], kernel={"id": theirs}).status_code == 400
    assert server.post("stolen.ipynb", kernel={"id": theirs}).status_code == 501
    started = server.api.post("/api/kernels", json={"name": "python3", "kernel_id": theirs})
    assert started.status_code == 409


def test_tenants_share_nothing_but_the_gateway(house: House) -> None:
    alice, bob = house.tenants
    check_own(alice, "alice")
    check_own(bob, "bob")
    check_foreign(alice.server, alice, bob)
    check_foreign(bob.server, bob, alice)
    assert len(rows_of(house.database)) == 2

    # In any order of starts and stops.
    for ended, other, name in ((alice, bob, "bob"), (bob, alice, "alice")):
        for end in (ended.server.stop, ended.server.kill):
            end()
            assert sorted(house.gateway.kernels()) == house.kernels
            check_own(other, name)
            ended.server.start()
            check_foreign(ended.server, ended, other)
    check_own(alice, "alice")
    check_own(bob, "bob")

    for tenant in house.tenants:
        warned = "cull_idle_timeout is 1 here, and has no effect"
        assert warned in tenant.server.log
        assert "Culling" not in tenant.server.log
    assert alice.server.delete(alice.session["id"]).status_code == 204
    assert house.gateway.kernels() == [bob.kernel_id]
    check_own(bob, "bob")


def test_a_kernel_without_a_session_ends_with_its_server(house: House) -> None:
    """Only those that the server has started itself, and that no session uses."""
    alice, bob = house.tenants
    answer = alice.server.api.post("/api/kernels", json={"name": "python3"})
    alone = alice.server.model(answer, 201)["id"]
    assert sorted(alice.server.kernels()) == sorted([alone, alice.kernel_id])
    assert sorted(house.gateway.kernels()) == sorted([*house.kernels, alone])
    alice.server.stop()
    until(lambda: sorted(house.gateway.kernels()) == house.kernels, why="it ends")
    alice.server.start()
    check_own(alice, "alice")
    check_own(bob, "bob")
