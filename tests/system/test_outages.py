"""The database stopped, killed and started again, many times, while servers are in use."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest

from ..databases import Database, Instance
from .cluster import KERNEL_MANAGER
from .conftest import stored_in
from .faults import Watch, is_refusal, locked, store_lines, ticking
from .gateway import Gateway
from .rows import rows_of
from .server import JupyterServer
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.torture,
    pytest.mark.extended("long outages"),
    pytest.mark.timeout(1200),
]

NewServer = Callable[..., JupyterServer]
LEASE: Final = 5
#: The seconds within which sessions are answered, as the documentation says, and a kernel's start
#: on a machine that is busy with other tests.
BOUNDS: Final = {"server": 1.0 + 10.0, "gateway": 10.0 + 10.0}
#: Sessions, and so kernels, of one client at once.
MOST: Final = 2


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.start()
    yield gateway
    gateway.close()


@contextmanager
def away(database: Database, instance: Instance | None, how: str) -> Iterator[None]:
    """Let the database be away: stopped or killed; a file is held by another process."""
    if instance is None:
        with locked(database):
            yield
        return
    {"stop": instance.stop, "kill": instance.kill}[how]()
    try:
        yield
    finally:
        instance.start()


@dataclass
class Client:
    """A user of one server, who knows what was acknowledged and what is in doubt.

    Parameters
    ----------
    server : JupyterServer
    name : str
        Which no other client's paths begin with.
    seed : int
    may_be_refused : bool
        Whether the store has to be asked.
    """

    server: JupyterServer
    name: str
    seed: int
    may_be_refused: bool
    #: The paths that each acknowledged session may have.
    paths: dict[str, set[str]] = field(default_factory=dict)
    #: Sessions whose deletion was refused: they are there, or not.
    doubtful: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    turn: int = 0

    def ask(self, verb: str, send: Callable[[], httpx.Response], *expected: int) -> httpx.Response:
        """Ask, and check that the answer is an expected one, or may say when to come back."""
        began = time.monotonic()
        answer = send()
        self.slowest = max(self.slowest, time.monotonic() - began)
        refused = self.may_be_refused and is_refusal(answer)
        outcome = "refused" if refused else str(answer.status_code)
        self.answers[f"{verb} {outcome}"] += 1
        assert outcome == "refused" or answer.status_code in expected, answer.text
        return answer

    def work(self, ended: threading.Event) -> None:
        """Use the server until the end."""
        chance = random.Random(self.seed)
        while not ended.is_set():
            self.step(chance)
            time.sleep(chance.uniform(0, 0.05))

    def step(self, chance: random.Random) -> None:
        """Make one request."""
        self.turn += 1
        path = f"{self.name}-{self.turn}.ipynb"
        known = sorted(set(self.paths) - self.doubtful)
        verb = chance.choices(["list", "get", "rename", "post", "delete"], [4, 3, 3, 2, 1])[0]
        if verb == "post" and len(self.paths) < MOST:
            answer = self.ask(verb, lambda: self.server.post(path), 201)
            if answer.status_code == 201:
                self.paths[answer.json()["id"]] = {path}
        elif verb == "rename" and known:
            chosen = chance.choice(known)
            answer = self.ask(verb, lambda: self.server.patch(chosen, path=path), 200)
            self.paths[chosen] = {path} | (
                set() if answer.status_code == 200 else self.paths[chosen]
            )
        elif verb == "delete" and self.paths:
            # Who was refused tries again: else nothing would be left to be changed.
            chosen = chance.choice(sorted(self.doubtful) or known)
            missing = [404] if chosen in self.doubtful else []
            answer = self.ask(verb, lambda: self.server.delete(chosen), 204, *missing)
            if answer.status_code in (204, 404):
                self.forget(chosen)
            else:
                self.doubtful.add(chosen)
        elif verb == "get" and self.paths:
            chosen = chance.choice(sorted(self.paths))
            missing = [404] if chosen in self.doubtful else []
            answer = self.ask(verb, lambda: self.server.get(chosen), 200, *missing)
            if answer.status_code == 200:
                assert answer.json()["path"] in self.paths[chosen]
            elif answer.status_code == 404:
                self.forget(chosen)
        else:
            answer = self.ask("list", lambda: self.server.api.get("/api/sessions"), 200)
            if answer.status_code == 200:
                self.check(answer)

    def check(self, answer: httpx.Response) -> None:
        """Check that a list has every session that was acknowledged."""
        listed = {model["id"]: model["path"] for model in answer.json()}
        for session_id, paths in list(self.paths.items()):
            if session_id in listed:
                assert listed[session_id] in paths
            else:
                assert session_id in self.doubtful, "an acknowledged session was lost"
                self.forget(session_id)

    def forget(self, session_id: str) -> None:
        """Forget a session that was deleted, perhaps though that was refused."""
        self.doubtful.discard(session_id)
        del self.paths[session_id]


def is_back(server: JupyterServer) -> bool:
    """Return whether a server reads and writes sessions again."""
    (first, *_) = server.sessions() if server.api.get("/api/sessions").is_success else [None]
    if first is None:
        return False
    return server.patch(first["id"], name="touched").is_success


def sessions_are_kernels(server: JupyterServer) -> bool:
    """Return whether every kernel of a server has a session, and every session a kernel."""
    return sorted(server.kernels()) == sorted(m["kernel"]["id"] for m in server.sessions())


def are_stored(servers: list[JupyterServer], database: Database) -> bool:
    """Return whether what is stored is what some server lists."""
    stored = sorted((row.session_id, row.path, row.kernel_id) for row in rows_of(database))
    listed = {
        (one["id"], one["path"], one["kernel"]["id"])
        for server in servers
        for one in server.sessions()
    }
    return stored == sorted(listed)


@pytest.mark.parametrize("authority", ["server", "gateway"])
def test_a_database_that_comes_and_goes_under_load(
    kind: str,
    authority: str,
    request: pytest.FixtureRequest,
    new_server: NewServer,
    rounds: Callable[[int], int],
    seed: int,
    tmp_path: Path,
) -> None:
    instance: Instance | None = None
    if kind == "sqlite":
        database: Database = request.getfixturevalue("database")
    else:
        instance = request.getfixturevalue("own_server")
        assert instance is not None
        database = instance.create_database()
    config = f"{stored_in(database)}\nc.PersistentSessionManager.lease_seconds = {LEASE}\n"
    gateway: Gateway | None = None
    if authority == "gateway":
        gateway = request.getfixturevalue("gateway")
        assert gateway is not None
        config += f"{gateway.client_config}{KERNEL_MANAGER}"
    servers = [ticking(new_server, config, root=tmp_path) for _ in range(2)]
    for place, server in enumerate(servers):
        server.start()
        server.create(f"first-{place}.ipynb")
    registered = sorted(database.rows("SELECT pid, server_id FROM jupyter_servers"))
    clients = [
        Client(server, f"client-{place}-{number}", seed + 10 * place + number, gateway is not None)
        for place, server in enumerate(servers)
        for number in range(2)
    ]
    number, chance = rounds(10), random.Random(seed)
    watches: list[Watch] = []
    for turn in range(number):
        how, long = ("stop", "kill")[turn % 2], turn % 5 == 0
        ended = threading.Event()
        with ExitStack() as stack:
            watches += [stack.enter_context(Watch(server, "/api")) for server in servers]
            threads = stack.enter_context(ThreadPoolExecutor(len(clients)))
            stack.callback(ended.set)
            working = [threads.submit(client.work, ended) for client in clients]
            time.sleep(chance.uniform(0.2, 1.0))
            with away(database, instance, how):
                time.sleep(2.5 * LEASE if long else chance.uniform(0.0, 1.0))
            for server in servers:
                until(lambda server=server: is_back(server), why="it is back")  # type: ignore[misc]
            time.sleep(chance.uniform(0.2, 1.0))
            ended.set()
            for work in working:
                work.result()
        for client in clients:
            client.check(client.server.api.get("/api/sessions"))
        for server in servers:
            until(lambda server=server: sessions_are_kernels(server), why="a kernel each")  # type: ignore[misc]
        until(lambda: are_stored(servers, database), why="each session is stored")
    # Longer than a lease after the last outage: nobody was taken for dead.
    time.sleep(1.5 * LEASE)
    assert sorted(database.rows("SELECT pid, server_id FROM jupyter_servers")) == registered
    assert are_stored(servers, database)
    for server in servers:
        assert "Evicted" not in server.log
        assert server.own_frames() == []
        assert set(store_lines(server.log)) == {"away", "back"}
    slowest = max(client.slowest for client in clients)
    answers = sum((client.answers for client in clients), Counter[str]())
    assert any("refused" in outcome for outcome in answers) == (gateway is not None), answers
    stall = max(watch.stall for watch in watches)
    print(
        f"{number} rounds, {sum(answers.values())} answers: {dict(sorted(answers.items()))}; "
        f"the slowest took {slowest:.1f} s, the longest stall {stall * 1000:.0f} ms"
    )
    assert slowest < BOUNDS[authority]
    assert stall < 1.0, "something waited for the database on the event loop"
