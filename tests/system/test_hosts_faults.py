"""Several hosts in one URL, some of which hang, come back, or should not be there."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.records import SessionRecord
from jupyter_session_store.sql.doctor import Verdict
from jupyter_session_store.sql.engine import timeouts
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import SCOPE, record

from ..databases import Database
from ..hanging import HangingProxy
from .cluster import light_replica_config
from .faults import is_refusal, store_lines
from .gateway import Gateway
from .pair import URL, NextDoor, Pair, StandbyNextDoor, a_pair, look, open_on
from .parity import LIGHT_KERNEL, add_light_kernel, light_config, light_gateway
from .rows import rows_of
from .server import TIME_TO_START, JupyterServer
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

NewServer = Callable[..., JupyterServer]
#: Seconds that a request waits for the store, as the documentation says, and for a busy machine.
BOUND: Final = 10.0 + 5.0
#: The same with kernels beside the server.
LOCAL_BOUND: Final = 1.0 + 4.0
NO_RENEWAL: Final = "c.PersistentSessionManager.lease_seconds = 3600\n"
ROLE: Final = "ada"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The two, for one test."""
    with a_pair() as pair:
        yield pair


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with light_gateway() as gateway:
        yield gateway


def behind(proxy: HangingProxy, database: Database) -> str:
    """Return a URL whose first host is a proxy, and whose second is what it leads to."""
    first, second = urlsplit(proxy.url), urlsplit(database.url)
    login = second.netloc.rpartition("@")[0]
    hosts = f"{first.hostname}:{first.port},{second.hostname}:{second.port}"
    return second._replace(netloc=f"{login}@{hosts}").geturl()


@pytest.fixture
def postgresql(servers) -> Iterator[Database]:  # type: ignore[no-untyped-def]
    """A database on a server that other tests use too."""
    shared = servers.get("postgresql")
    database = shared.create_database()
    yield database
    shared.drop_database(database)


def number_of_connections(database: Database) -> int:
    """Return how many others are connected."""
    ((number,),) = database.rows(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(number)


async def find(repository: SQLAlchemySessionRepository) -> list[SessionRecord]:
    """Ask until it is answered."""
    while True:
        try:
            return await repository.find(SCOPE)
        except StoreUnavailable:
            await asyncio.sleep(0.1)


# --- a host that hangs


async def test_a_first_host_that_hangs_costs_the_first_request_no_failure(
    postgresql: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pause, in which the connection was closed."""
    with HangingProxy(postgresql) as proxy, ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(timeouts, "HOST_TIMEOUT", 30)
            repository = stack.enter_context(open_on(behind(proxy, postgresql), 0.3))
            await repository.add(record("a"))
        assert repository.describe().host == f"127.0.0.1:{proxy.port}"
        for _ in range(2):
            until(lambda: number_of_connections(postgresql) == 0, why="it is idle")
            proxy.suspend()
            began = time.monotonic()
            assert await repository.find(SCOPE) == [record("a")]
            print(f"answered after {time.monotonic() - began:.2f} s")
        assert repository.describe().host == f"127.0.0.1:{urlsplit(postgresql.url).port}"
        # It is not tried any more, though it would answer.
        proxy.go_on()
        monkeypatch.setattr(timeouts, "HOST_TIMEOUT", 30)
        until(lambda: number_of_connections(postgresql) == 0, why="it is idle")
        assert await repository.find(SCOPE) == [record("a")]
        assert repository.describe().host == f"127.0.0.1:{urlsplit(postgresql.url).port}"
    assert "unavailable" not in caplog.text


async def test_a_first_host_that_hangs_at_the_start(
    postgresql: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with HangingProxy(postgresql) as proxy:
        proxy.suspend()
        with open_on(behind(proxy, postgresql)) as repository:
            await repository.add(record("a"))
            assert repository.describe().host == f"127.0.0.1:{urlsplit(postgresql.url).port}"
            found = look(behind(proxy, postgresql))
        assert found["hosts"].verdict is Verdict.WARNING
        assert f"127.0.0.1:{proxy.port} (connection timeout expired)" in found["hosts"].text
    assert "unavailable" not in caplog.text


@pytest.mark.extended("a gateway, and a host that hangs")
def test_a_server_does_not_answer_503(
    postgresql: Database, gateway: Gateway, new_server: NewServer
) -> None:
    with HangingProxy(postgresql) as proxy:
        running = new_server(
            light_replica_config(behind(proxy, postgresql), gateway)
            + f"{NO_RENEWAL}c.PersistentSessionManager.connection_idle_seconds = 1\n"
        )
        running.start()
        session = running.create("a.ipynb")
        until(lambda: number_of_connections(postgresql) == 0, why="it is idle")
        proxy.suspend()
        began = time.monotonic()
        assert [one["id"] for one in running.sessions()] == [session["id"]]
        seconds = time.monotonic() - began
        print(f"the first request after the pause was answered after {seconds:.2f} s")
        assert seconds < BOUND
        assert running.post("b.ipynb").status_code == 201
        assert store_lines(running.log) == []
        running.stop()


# --- a host that goes, and one that comes back


@pytest.mark.extended("a standby that is promoted")
async def test_a_former_primary_that_comes_back_is_left_alone(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with open_on(pair.url(URL), 0.3) as repository:
        await repository.add(record("a"))
        pair.standby.catch_up()
        pair.primary.kill()
        pair.standby.promote()
        assert await find(repository) == [record("a")]
        standby, primary = f"{NextDoor.HOST}:{pair.port}", f"127.0.0.1:{pair.port}"
        assert f"is at {standby} now, and no longer at {primary}." in caplog.text
        # Nobody has told it that it is none any more.
        pair.primary.start()
        for name in ("b", "c"):
            until(lambda: number_of_connections(pair.on_standby) == 0, why="it is idle")
            await repository.add(record(name))
        assert {row.session_id for row in rows_of(pair.database)} == {"a"}
        assert {row.session_id for row in rows_of(pair.on_standby)} == {"a", "b", "c"}
        found = look(pair.url(URL))["hosts"]
        assert found.verdict is Verdict.FAILED
        assert found.text.endswith("; expected one primary.")
        # Where it is the only one left, it is used again.
        pair.standby.kill()
        assert await find(repository) == [record("a")]
    assert "another cluster" not in caplog.text


@pytest.mark.extended("a standby that is promoted, and a server of its own")
def test_a_name_that_moves_in_dns_is_followed(
    pair: Pair, new_server: NewServer, tmp_path: Path
) -> None:
    names = tmp_path / "hosts"
    names.write_text("127.0.0.1 localhost db.test\n")
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = f'mount --bind {names} /etc/hosts && exec "$@"'
    url = pair.database.url.replace("127.0.0.1", "db.test")
    running = new_server(
        f"c.SessionManager.database_filepath = {url!r}\n"
        "c.PersistentSessionManager.lease_seconds = 3\n",
        prefix=["unshare", *as_root, "--mount", "sh", "-c", mount, "sh"],
    )
    running.start()
    first = running.create("a.ipynb")
    until(lambda: len(rows_of(pair.database)) == 1, why="it is stored")
    pair.standby.catch_up()
    pair.primary.kill()
    pair.standby.promote()
    # The same file, as the mount has it.
    names.write_text(f"127.0.0.1 localhost\n{NextDoor.HOST} db.test\n")
    second = running.create("b.ipynb")
    expected = {first["id"], second["id"]}
    until(
        lambda: {row.session_id for row in rows_of(pair.on_standby)} == expected,
        why="both are stored where the name leads now",
    )
    assert store_lines(running.log) in ([], ["away", "back"])
    running.stop()


# --- what should not be in a URL


def test_a_standby_alone(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    with open_on(pair.database.url):
        pass
    pair.standby.catch_up()
    for url in (
        pair.on_standby.url,
        f"{pair.on_standby.url}?target_session_attrs=read-write",
        pair.url("postgresql://jupyter@db2:5432,db2:5432/jupyter"),
    ):
        caplog.clear()
        with open_on(url):
            pass
        print(caplog.text)
        assert f"jss@{NextDoor.HOST}:{pair.port}" in caplog.text
        assert (
            "Name the primary in the URL, or all hosts: postgresql://USER@A:5432,B" in caplog.text
        )
        found = look(url)
        name = "writes" if url == pair.on_standby.url else "connection"
        assert found[name].verdict is Verdict.FAILED
        assert "postgresql://USER@A:5432,B:5432" in found[name].cure[0]


def test_a_server_on_a_standby_alone_works_from_memory(pair: Pair, new_server: NewServer) -> None:
    with open_on(pair.database.url):
        pass
    pair.standby.catch_up()
    url = f"c.SessionManager.database_filepath = {pair.on_standby.url!r}"
    running = new_server(f"{url}{TIME_TO_START}")
    running.start()
    session = running.create("a.ipynb")
    assert [one["id"] for one in running.sessions()] == [session["id"]]
    assert "Name the primary in the URL" in running.log
    assert store_lines(running.log) == ["away"]
    # Where it becomes the primary, all that was kept is stored.
    pair.standby.promote()
    until(lambda: len(rows_of(pair.on_standby)) == 1, why="it is stored")
    running.stop()


@pytest.fixture
def stranger(pair: Pair) -> Iterator[NextDoor]:
    """The standby of another cluster, with a database and a role of the same names."""
    other = NextDoor()
    try:
        password = pair.primary.password.replace("'", "''")
        name = urlsplit(pair.database.url).path[1:]
        other.admin.execute(f"CREATE DATABASE {name}")
        other.admin.execute(f"ALTER ROLE jss PASSWORD '{password}'")
        other.admin = Database(
            "postgresql", pair.primary.admin.url.replace(f"127.0.0.1:{pair.port}", other.place)
        )
        yield other
    finally:
        other.close()


@pytest.mark.extended("two clusters")
async def test_two_clusters(
    pair: Pair, stranger: NextDoor, caplog: pytest.LogCaptureFixture
) -> None:
    there = Database(
        "postgresql", pair.database.url.replace(f"127.0.0.1:{pair.port}", stranger.place)
    )
    with open_on(there.url):
        pass
    stranger.admin.execute("COPY (SELECT 1) TO PROGRAM 'cat > standby.signal'")
    stranger.restart()
    url = pair.url(f"postgresql://jupyter@db1:5432,{stranger.place}/jupyter")
    with open_on(url) as repository:
        await repository.add(record("a"))
        found = look(url)["hosts"]
        assert found.verdict is Verdict.FAILED
        assert "they belong to different clusters; expected a primary and its" in found.text
        pair.primary.kill()
        stranger.admin.execute("SELECT pg_promote(true, 60)")
        assert await find(repository) == []
        assert f"{stranger.place}, which answers for" in caplog.text
        assert "belongs to another cluster than" in caplog.text
        # The one that was meant.
        pair.primary.start()
        stranger.kill()
        assert await find(repository) == [record("a")]


def refuse_role(server: NextDoor | StandbyNextDoor) -> None:
    """Have a server let a role in no more."""
    rules = server.data / "pg_hba.conf"
    rules.write_text(f"host all {ROLE} all reject\n{rules.read_text()}")
    server.admin.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("refusing", ["primary", "standby"])
async def test_a_role_that_may_not_log_in_at_one_host(
    pair: Pair, caplog: pytest.LogCaptureFixture, refusing: str
) -> None:
    password = pair.primary.password.replace("'", "''")
    pair.primary.admin.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'")
    with open_on(pair.database.url):
        pass
    pair.database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}")
    pair.standby.catch_up()
    refuse_role(getattr(pair, refusing))
    url = pair.url(URL).replace("//jss:", f"//{ROLE}:")
    with open_on(url) as repository:
        if refusing == "standby":
            await repository.add(record("a"))
            found = look(url)
            assert found["connection"].verdict is Verdict.OK
            assert found["hosts"].verdict is Verdict.WARNING
            assert "standby" not in found["hosts"].text
        else:
            with pytest.raises(StoreUnavailable):
                await repository.add(record("a"))
            found = look(url)
            assert found["connection"].verdict is Verdict.FAILED
            assert f"127.0.0.1:{pair.port}: " in found["connection"].text
            assert f"{NextDoor.HOST}:{pair.port}: " in found["connection"].text
        name = "hosts" if refusing == "standby" else "connection"
        print(found[name])
        assert "pg_hba.conf rejects connection" in found[name].text
        assert "Put before the line of pg_hba.conf that rejects it" in found[name].cure[0]
    if refusing == "primary":
        assert "pg_hba.conf rejects connection" in caplog.text


# --- a synchronous standby that is gone


def wait_for_no_standby(pair: Pair) -> None:
    """Have each commit of the primary wait for a standby that has ended."""
    pair.standby.kill()
    pair.primary.admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    pair.primary.admin.execute("SELECT pg_reload_conf()")


def wait_no_more(pair: Pair) -> None:
    # It is no transaction that would wait itself.
    pair.primary.admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
    pair.primary.admin.execute("SELECT pg_reload_conf()")


@pytest.mark.extended("commits that wait for a standby")
def test_local_kernels_and_a_synchronous_standby_that_is_gone(
    pair: Pair, new_server: NewServer
) -> None:
    running = new_server(
        light_config(
            f"c.SessionManager.database_filepath = {pair.url(URL)!r}\n"
            "c.PersistentSessionManager.lease_seconds = 6\n"
        )
    )
    add_light_kernel(running, LIGHT_KERNEL)
    running.start()
    running.create("before.ipynb")
    until(lambda: len(rows_of(pair.database)) == 1, why="it is stored")
    wait_for_no_standby(pair)
    known = set()
    for number in range(3):
        began = time.monotonic()
        answer = running.post(f"{number}.ipynb")
        seconds = time.monotonic() - began
        print(f"POST: {answer.status_code} after {seconds:.2f} s")
        assert answer.status_code == 201
        assert seconds < LOCAL_BOUND
        known.add(answer.json()["id"])
    wait_no_more(pair)
    until(
        lambda: known <= {row.session_id for row in rows_of(pair.database)},
        why="all are stored",
    )
    assert len(rows_of(pair.database)) == 4
    assert len(running.kernels()) == 4
    running.stop()


@pytest.mark.extended("commits that wait for a standby")
def test_a_gateway_and_a_synchronous_standby_that_is_gone(
    pair: Pair, gateway: Gateway, new_server: NewServer
) -> None:
    running = new_server(light_replica_config(pair.url(URL), gateway))
    running.start()
    before = running.create("before.ipynb")
    wait_for_no_standby(pair)
    requests: dict[str, Callable[[], object]] = {
        "POST": lambda: running.post("a.ipynb"),
        "PATCH": lambda: running.patch(before["id"], name="n"),
        "GET": lambda: running.api.get("/api/sessions"),
        "DELETE": lambda: running.delete(before["id"]),
    }
    for name, request in requests.items():
        began = time.monotonic()
        answer = request()
        seconds = time.monotonic() - began
        print(f"{name}: {answer.status_code} after {seconds:.2f} s")  # type: ignore[attr-defined]
        assert seconds < BOUND
        assert answer.status_code in (200, 201, 204) or is_refusal(answer)  # type: ignore[attr-defined, arg-type]
    print(f"{number_of_connections(pair.database)} connections are in use")
    wait_no_more(pair)
    until(lambda: running.post("a.ipynb").status_code == 201, why="the database answers again")
    until(
        lambda: (
            sorted(one["kernel"]["id"] for one in running.sessions()) == sorted(gateway.kernels())
        ),
        why="each kernel has its session, and each session its kernel",
    )
    paths = [one["path"] for one in running.sessions()]
    assert paths.count("a.ipynb") == 1
    print(f"{len(paths)} sessions, 0 kernels lost or doubled")
    running.stop()
