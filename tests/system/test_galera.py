"""Three nodes of Galera, all of which take writes."""

from __future__ import annotations

import asyncio
import random
import re
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.sql.doctor import Verdict
from jupyter_session_store.sql.schema import migrating, row_lock
from jupyter_session_store.sql.schema.versions import State
from jupyter_session_store.testing import SCOPE, record, run

from ..cli.doctor_support import look, unwell
from ..databases import Database
from ..databases.galera import Galera, Node, Proxy, at
from ..docs.blocks import blocks
from ..migrations.support import engine_of, opened, status
from ..migrations.test_race import race
from ..unit.dummies import shared_manager
from ..unit.test_round_trips import ALLOWED_ON_A_GATEWAY, each_verb
from ..wire import WireTap
from .cluster import KERNEL_MANAGER
from .gateway import Gateway
from .parity import LIGHT_KERNEL, light_config, light_gateway
from .racing import LEAD, fill, race_close_and_move, racing
from .rows import rows_of
from .server import JupyterServer
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("three nodes of Galera"),
    pytest.mark.timeout(1500),
]

PAGE: Final = "docs/how-to/galera.md"


@pytest.fixture(scope="session")
def galera() -> Iterator[Galera]:
    cluster = Galera()
    yield cluster
    cluster.close()


@pytest.fixture
def ways(galera: Galera) -> Iterator[list[Database]]:
    """One database, as each node has it."""
    galera.mend()
    with galera.database() as ways:
        yield ways


# ------------------------------------------------------------------ exactly one last


@pytest.mark.torture
@pytest.mark.parametrize("verbs", [("close", "close"), ("close", "move"), ("move", "move")])
@pytest.mark.parametrize("places", [(0, 1), (2, 2)], ids=["two nodes", "one node"])
def test_of_two_that_leave_one_kernel_one_is_last(
    ways: list[Database],
    verbs: tuple[str, str],
    places: tuple[int, int],
    rounds: Callable[[int], int],
    seed: int,
    tmp_path: Path,
) -> None:
    chance = random.Random(seed)
    number = rounds(200)
    lasts: Counter[int] = Counter()
    with racing([ways[place] for place in places], tmp_path) as racers:
        for turn in range(number):
            fill(racers[0], f"a{turn}", f"b{turn}", kernel_id=f"k{turn}")
            begin = time.monotonic() + LEAD
            for racer, verb, name in zip(racers, verbs, "ab", strict=True):
                from_kernel = {"kernel_id": f"k{turn}"} if verb == "move" else {}
                at_moment = begin + chance.uniform(0, 0.001)
                racer.ask(at_moment, verb, session_id=f"{name}{turn}", **from_kernel)
            lasts[[racer.answer()["last"] for racer in racers].count(True)] += 1
    assert lasts == {1: number}, f"seed {seed}"
    print(f"{number} rounds of {' and '.join(verbs)} on one kernel: exactly one last")


@pytest.mark.torture
def test_a_close_and_a_move_of_one_session(
    ways: list[Database], rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    """Whichever comes second counts on the kernel that the first has left the session on."""
    chance = random.Random(seed)
    number, first = rounds(200), Counter[str]()
    with racing(ways[:2], tmp_path) as (one, two):
        for turn in range(number):
            came_first = race_close_and_move(one, two, turn, chance, apart=0.002, seed=seed)
            first[came_first] += 1
    print(f"{number} rounds of a close and a move of one session, first was: {dict(first)}")


@pytest.mark.torture
def test_two_deletes_and_an_attaching_create(
    ways: list[Database], rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    number, outcomes = rounds(200), Counter[str]()
    with racing(ways, tmp_path) as (one, two, three):
        for turn in range(number):
            kernel_id = f"k{turn}"
            fill(one, f"a{turn}", f"b{turn}", kernel_id=kernel_id)
            begin = time.monotonic() + LEAD
            one.ask(begin + chance.uniform(0, 0.002), "delete", session_id=f"a{turn}")
            two.ask(begin + chance.uniform(0, 0.002), "delete", session_id=f"b{turn}")
            late = begin + chance.uniform(0, 0.006)
            three.ask(late, "attach", session_id=f"c{turn}", kernel_id=kernel_id)
            ended = [one.answer()["last"], two.answer()["last"]].count(True)
            attached = three.answer()["attached"]
            if not attached and not ended:
                # It gave way to a closer that had seen it. As the manager does, it comes again.
                three.ask(0, "attach", session_id=f"c{turn}", kernel_id=kernel_id)
                attached = three.answer()["attached"]
            assert ended == (0 if attached else 1), f"{ended}, {attached}, seed {seed}"
            outcomes["ended" if ended else "lives"] += 1
    print(f"{number} rounds of 2 deletes and an attaching create: {dict(outcomes)}")


@pytest.mark.torture
def test_creates_of_one_path(
    ways: list[Database], rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    number = rounds(200)
    with racing(ways * 2, tmp_path) as racers:
        for turn in range(number):
            start = chance.uniform(0, 0.01)
            begin = time.monotonic() + LEAD
            for racer in racers:
                late = begin + chance.uniform(0, 0.004)
                racer.ask(late, "create", path=f"path-{turn}", start=start)
            answers = [racer.answer() for racer in racers]
            (created,) = (answer["created"] for answer in answers if "created" in answer)
            held = [answer["holder"] for answer in answers if "holder" in answer]
            assert held == [created] * 5, f"{answers}, seed {seed}"
    print(f"{number} rounds of 6 creates of one path: 1 row each")


async def test_it_costs_no_statement(ways: list[Database], servers: Any) -> None:
    """Neither at the start, where a node is told from a single server, nor at a verb."""
    starts = []
    single = servers.get("mysql").create_database()
    for database in (single, ways[0]):
        with engine_of(database.url) as engine:
            migrating.upgrade(engine)
        with WireTap.to(database) as tap:
            manager = shared_manager(tap.url(database))
            session = await manager.create_session(path="first.ipynb", type="notebook", name="")
            starts.append(tap.round_trips)
            for name, verb in each_verb(manager, session["id"]).items():
                tap.reset()
                await verb()
                assert tap.round_trips == ALLOWED_ON_A_GATEWAY[name]["mysql"], tap.statements
            manager.close()
    assert starts[0] == starts[1]
    servers.get("mysql").drop_database(single)


@pytest.mark.torture
def test_a_read_sees_what_another_node_has_written(
    ways: list[Database], galera: Galera, rounds: Callable[[int], int]
) -> None:
    """With wsrep_sync_wait, which the nodes of the tests have as the page says."""
    number = rounds(200)
    with ExitStack() as stack:
        repositories = [
            stack.enter_context(opened(way.url, SCOPE, server_id=f"server-{place}"))
            for place, way in enumerate(ways)
        ]

        async def missing() -> int:
            count = 0
            for turn in range(number):
                writer, reader = repositories[turn % 3], repositories[(turn + 1) % 3]
                session_id = uuid4().hex
                await writer.add(record(session_id))
                found = {one.session_id for one in await reader.find(SCOPE)}
                count += session_id not in found
            return count

        assert asyncio.run(missing()) == 0
    print(f"{number} rounds of a write on one node and a read on another: 0 missing")


# ------------------------------------------------------------------------- upgrades


@pytest.mark.torture
def test_three_upgrades_at_once(
    galera: Galera, rounds: Callable[[int], int], tmp_path: Path
) -> None:
    number = rounds(20)
    for turn in range(number):
        with (
            galera.database() as ways,
            race(tmp_path / str(turn), 3, "tests.migrations.upgrader") as racers,
        ):
            racers.start(*(way.url for way in ways))
            changes = sorted(racers.finish())
            # One has made all, and the others found nothing to do.
            assert changes[:2] == [0, 0], racers.logs()
            assert changes[2] > 0
            for way in ways:
                with engine_of(way.url) as engine:
                    assert status(engine).state is State.CURRENT
                assert way.rows(f"SELECT * FROM {row_lock.LOCK_TABLE}") == []
    print(f"{number} rounds of 3 upgrades at once through 3 nodes: all succeed, one ran")


@pytest.mark.torture
def test_servers_that_start_together_all_come_up(
    galera: Galera, rounds: Callable[[int], int], tmp_path: Path
) -> None:
    number = rounds(10)
    for turn in range(number):
        with galera.database() as ways, race(tmp_path / str(turn), 6) as racers:
            racers.start(*(way.url for way in ways))
            racers.finish()
            for way in ways:
                assert len(way.rows("SELECT session_id FROM jupyter_sessions")) == 6
    print(f"{number} rounds of 6 servers that start at once through 3 nodes: all come up")


def test_a_holder_that_is_killed(ways: list[Database], tmp_path: Path) -> None:
    """In real time: the next goes on when the count has stood still for the stated time."""
    with race(tmp_path / "killed", 1, "tests.migrations.holder") as holder:
        holder.start(ways[0].url)
        ask = f"SELECT owner FROM {row_lock.LOCK_TABLE}"
        until(lambda: has_rows(ways[1], ask), why="it has the lock")
    assert has_rows(ways[1], ask)
    began = time.monotonic()
    with engine_of(ways[1].url) as engine:
        migrating.upgrade(engine)
        waited = time.monotonic() - began
        assert status(engine).state is State.CURRENT
    assert ways[2].rows(ask) == []
    print(
        f"1 rounds of an upgrade after a holder that was killed: went on after {waited:.0f} s, "
        f"stated {row_lock.LOCK_LEASE_SECONDS:g} s"
    )


def has_rows(database: Database, query: str) -> bool:
    try:
        return bool(database.rows(query))
    except Exception:
        # The table is not there yet.
        return False


# ------------------------------------------------------- nodes that leave and come back


def test_a_node_without_quorum(ways: list[Database], galera: Galera) -> None:
    with opened(ways[2].url, SCOPE) as repository:
        run(repository.add(record("a")))
        galera.nodes[2].isolate()
        until(lambda: galera.nodes[2].status("ready") == "OFF", why="it is alone")
        with pytest.raises(StoreUnavailable, match="takes no statements now: it has left"):
            run(repository.find(SCOPE))
        with pytest.raises(StoreUnavailable, match="Name another in the URL"):
            run(repository.add(record("b")))
        found = look(ways[2].url)["connection"]
        assert found.verdict is Verdict.FAILED
        # 1047, or, of a statement without a table, that it does not get what the others have.
        assert re.match(r"\((1047|1205), ", found.text)
        assert "another in the URL, or see SHOW STATUS LIKE 'wsrep_%';" in found.cure[0]
        galera.nodes[2].bring_back()
        galera.wait()
        assert run(repository.find(SCOPE)) == [record("a")]
        run(repository.add(record("b")))


def test_doctor_and_the_check_of_haproxy(
    ways: list[Database], galera: Galera, tmp_path: Path
) -> None:
    node = galera.nodes[1]
    with engine_of(ways[1].url) as engine:
        migrating.upgrade(engine)
    found = look(ways[1].url)
    assert unwell(found) == {}
    assert found["cluster"].text == (
        "A node of Galera, Synced, one of 3; reads wait for what other nodes have written."
    )
    with check_of(node, tmp_path) as port:
        check = f"http://127.0.0.1:{port}/"

        def is_well() -> bool:
            return httpx.get(check, trust_env=False, timeout=60).status_code == 200

        # The check gives the node 2 s to connect.
        until(is_well, why="the node is well")
        node.admin.execute("SET GLOBAL wsrep_desync = ON")
        try:
            donor = look(ways[1].url)["cluster"]
            assert httpx.get(check, trust_env=False, timeout=60).status_code == 503
        finally:
            node.admin.execute("SET GLOBAL wsrep_desync = OFF")
            galera.wait()
    assert donor.verdict is Verdict.WARNING
    assert "Donor/Desynced" in donor.text
    node.admin.execute("SET GLOBAL wsrep_sync_wait = 0")
    unsynchronised = look(ways[1].url)["cluster"]
    assert unsynchronised.verdict is Verdict.WARNING
    node.admin.execute(unsynchronised.cure[0].rpartition(": ")[2])
    galera.wait()
    assert unwell(look(ways[1].url)) == {}


def shown(beginning: str, language: str = "text") -> str:
    """Return the one block of the page that begins so."""
    (text,) = (
        block.text
        for block in blocks(PAGE)
        if block.language == language and block.text.startswith(beginning)
    )
    return text


@contextmanager
def check_of(node: Node, folder: Path) -> Iterator[int]:
    """Answer HAProxy's question for a node, by the script of the page; yield the port."""
    parts = urlsplit(node.admin.url)
    settings = folder / f"{node.port}.cnf"
    password = node.password.replace("\\", "\\\\")
    settings.write_text(
        f'[client]\nhost=127.0.0.1\nport={parts.port}\nuser=jss\npassword="{password}"\n'
    )
    script = folder / f"{node.port}.sh"
    text = shown("#!/bin/sh\n", "bash")
    assert "/etc/mysql/galera-check.cnf" in text
    script.write_text(text.replace("/etc/mysql/galera-check.cnf", str(settings)))

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            done = subprocess.run(["sh", script], capture_output=True, check=False)
            self.request.sendall(done.stdout)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def proxy(galera: Galera, tmp_path: Path) -> Iterator[Proxy]:
    with ExitStack() as stack:
        checks = [stack.enter_context(check_of(node, tmp_path)) for node in galera.nodes]
        proxy = Proxy(galera, checks)
        stack.callback(proxy.close)
        yield proxy


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with light_gateway() as gateway:
        yield gateway


class Load:
    """A user who creates and deletes sessions through some servers, and asks again until it is so.

    Parameters
    ----------
    servers : list of JupyterServer
    chance : random.Random
    """

    def __init__(self, servers: list[JupyterServer], chance: random.Random) -> None:
        self._servers = servers
        self._chance = chance
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on)
        #: What was acknowledged last: the paths that there are.
        self.paths: set[str] = set()
        self.acknowledged = 0
        self.refused = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def at_least(self, number: int) -> bool:
        """Return whether so much was acknowledged."""
        assert self.failure is None, self.failure
        return self.acknowledged >= number

    def _go_on(self) -> None:
        serial = 0
        try:
            while not self._ended.is_set():
                serial += 1
                if self.paths and self._chance.random() < 0.4:
                    self._delete(self._chance.choice(sorted(self.paths)))
                else:
                    self._create(f"{serial}.ipynb")
        except BaseException as error:
            self.failure = error

    def _create(self, path: str) -> None:
        self._until_acknowledged(lambda server: server.post(path), {201})
        self.paths.add(path)

    def _delete(self, path: str) -> None:
        found = self._until_acknowledged(lambda server: server.api.get("/api/sessions"), {200})
        ids = [one["id"] for one in found.json() if one["path"] == path]
        assert len(ids) == 1, f"{path} is listed {len(ids)} times"
        # Where an answer was lost, it is gone.
        self._until_acknowledged(lambda server: server.delete(ids[0]), {204, 404})
        self.paths.remove(path)

    def _until_acknowledged(self, ask: Callable[[JupyterServer], Any], statuses: set[int]) -> Any:
        while True:
            answer = ask(self._chance.choice(self._servers))
            if answer.status_code in statuses:
                self.acknowledged += 1
                return answer
            assert answer.status_code == 503, answer.text
            self.refused += 1
            time.sleep(0.1)


@pytest.mark.torture
def test_nodes_that_leave_and_come_back_under_load(
    ways: list[Database],
    galera: Galera,
    proxy: Proxy,
    gateway: Gateway,
    new_server: Callable[..., JupyterServer],
    tmp_path: Path,
    seed: int,
    rounds: Callable[[int], int],
) -> None:
    chance = random.Random(seed)
    config = light_config(
        f"c.SessionManager.database_filepath = {at(proxy, ways[0]).url!r}\n"
        f"{gateway.client_config}{KERNEL_MANAGER}"
        f"c.MultiKernelManager.default_kernel_name = {LIGHT_KERNEL!r}\n"
    )
    servers = [new_server(config, root=tmp_path) for _ in range(2)]
    for server in servers:
        server.start()
    number = rounds(5)
    with Load(servers, random.Random(seed)) as load:

        def goes_on(why: str) -> None:
            before = load.acknowledged
            until(lambda: load.at_least(before + 20), why=f"{why}, seed {seed}")

        for _ in range(number):
            killed, stopped, isolated = chance.sample(galera.nodes, 3)
            goes_on("all are there")
            killed.kill()
            goes_on("one is killed")
            killed.start()
            galera.wait()
            stopped.stop()
            goes_on("one is stopped in order")
            stopped.start()
            galera.wait()
            isolated.isolate()
            goes_on("one is isolated")
            isolated.bring_back()
            galera.wait()
        goes_on("all are back")
    assert load.failure is None, f"{load.failure}, seed {seed}"
    for server in servers:
        listed = sorted(one["path"] for one in server.sessions())
        assert listed == sorted(load.paths), f"seed {seed}"
        assert server.uncaught() == []
    for way in ways:
        rows = rows_of(way)
        assert sorted(str(row.path) for row in rows) == listed, f"seed {seed}"
    kernels = {row.kernel_id for row in rows}
    until(lambda: set(gateway.kernels()) == kernels, why=f"no kernel is left over, seed {seed}")
    print(
        f"{number} rounds of nodes killed, stopped, isolated and brought back: {load.acknowledged} "
        f"requests acknowledged, {load.refused} refused, 0 sessions missing, 0 doubled"
    )
