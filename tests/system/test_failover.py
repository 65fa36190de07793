"""An asynchronous failover: a standby that was behind is promoted, and the primary is gone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..databases import Database
from ..databases.postgresql import LocalPostgreSQL
from .cluster import light_replica_config
from .gateway import Gateway
from .parity import light_gateway
from .patroni import url_of_hosts
from .rows import rows_of
from .server import JupyterServer
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("a standby that is promoted"),
    pytest.mark.timeout(1500),
]


class Standby(LocalPostgreSQL):
    """A server that follows another, asynchronously."""

    def __init__(self, primary: LocalPostgreSQL) -> None:
        self._primary = primary
        super().__init__()

    def _initialise_or_copy(self) -> None:
        primary = self._primary
        self.password = primary.password
        escaped = primary.password.replace("\\", "\\\\").replace(":", "\\:")
        passwords = self.write("passwords", f"*:*:*:jss:{escaped}\n")
        self.run(
            self._initdb.with_name("pg_basebackup"),
            f"--pgdata={self.data}",
            f"--dbname=host=127.0.0.1 port={primary.port} user=jss passfile={passwords}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )

    def fall_behind(self) -> None:
        """Get nothing more of what the primary writes, once all that it has written is here."""
        (written,) = self._primary.admin.rows("SELECT pg_current_wal_lsn()::text")[0]
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        until(lambda: self.admin.rows(replayed) == [(True,)], why="the standby has it")
        self.admin.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.admin.execute("SELECT pg_reload_conf()")
        until(
            lambda: self.admin.rows("SELECT * FROM pg_stat_wal_receiver") == [],
            why="the standby listens no more",
        )

    def promote(self) -> None:
        """Become the primary."""
        assert self.admin.rows("SELECT pg_promote(true, 60)") == [(True,)]


@pytest.fixture
def primary() -> Iterator[LocalPostgreSQL]:
    primary = LocalPostgreSQL()
    yield primary
    primary.close()


@pytest.fixture
def standby(primary: LocalPostgreSQL) -> Iterator[Standby]:
    standby = Standby(primary)
    yield standby
    standby.close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with light_gateway() as gateway:
        yield gateway


#: What a session is: its path and its kernel, by its id.
Known = dict[str, tuple[str, str]]


def shown(server: JupyterServer) -> Known:
    return {one["id"]: (one["path"], one["kernel"]["id"]) for one in server.sessions()}


def change(server: JupyterServer, known: Known, chance: random.Random, serial: int) -> None:
    """Change a session, or make or delete one; note what was acknowledged."""
    what = chance.choice(["create", "create", "rename", "move", "delete"])
    session_id = chance.choice(sorted(known)) if known else None
    if what == "create" or session_id is None:
        model = server.create(f"{serial}.ipynb")
    elif what == "delete":
        assert server.delete(session_id).status_code == 204
        del known[session_id]
        return
    else:
        fields = {"path": f"{serial}.ipynb"} if what == "rename" else {"kernel": {"name": "light"}}
        model = server.model(server.patch(session_id, **fields), 200)
    known[model["id"]] = (model["path"], model["kernel"]["id"])


@pytest.mark.torture
def test_what_the_standby_lacked_comes_back(
    primary: LocalPostgreSQL,
    standby: Standby,
    gateway: Gateway,
    new_server: Callable[..., JupyterServer],
    tmp_path: Path,
    seed: int,
    rounds: Callable[[int], int],
) -> None:
    chance = random.Random(seed)
    database = primary.create_database()
    config = light_replica_config(url_of_hosts(database, primary.port, standby.port), gateway)
    servers = [new_server(config, root=tmp_path) for _ in range(2)]
    for server in servers:
        server.start()
    known: Known = {}
    number = rounds(500)
    for serial in range(number):
        change(chance.choice(servers), known, chance, serial)
    standby.fall_behind()
    before = dict(known)
    for serial in range(number, 2 * number):
        change(chance.choice(servers), known, chance, serial)
    assert known != before

    primary.kill()
    standby.promote()
    promoted = Database(
        "postgresql", database.url.replace(f":{primary.port}/", f":{standby.port}/")
    )
    until(lambda: servers[0].api.get("/api/sessions").status_code == 200, why="it has found it")
    until(lambda: servers[1].api.get("/api/sessions").status_code == 200, why="so has the other")
    for server in servers:
        assert shown(server) == known, f"seed {seed}"
    stored = {row.session_id: (row.path, row.kernel_id) for row in rows_of(promoted)}
    assert stored == known, f"seed {seed}"
    kernels = sorted(kernel for _, kernel in known.values())
    assert sorted(gateway.kernels()) == kernels

    for server in servers:
        server.stop()
    assert sorted(gateway.kernels()) == kernels, "none is shut down by an orderly stop"
    servers[0].start()
    assert shown(servers[0]) == known
    print(
        f"{number} changes before and {number} after the standby fell behind: {len(known)} "
        f"sessions, 0 missing, 0 kernels doubled or shut down"
    )
