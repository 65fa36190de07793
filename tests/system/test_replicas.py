"""Replicas of one server, none of which holds a session of its own: any of them may end."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest
import websocket

from ..databases import Database
from .client import Model
from .cluster import Cluster, cluster
from .rows import rows_of
from .server import JupyterServer
from .test_one_path import AT_ONCE, SPREAD, ask, gist
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.torture,
    pytest.mark.timeout(1800),
    pytest.mark.only(
        "sqlite",
        "postgresql",
        reason="a shared file and a server: what the store does is shown on each elsewhere",
    ),
]


def kill(replica: JupyterServer) -> None:
    replica.kill()


def terminate(replica: JupyterServer) -> None:
    replica.stop()


def restart(replica: JupyterServer) -> None:
    replica.stop()
    replica.start()


@pytest.mark.parametrize("end", [kill, terminate, restart], ids=lambda end: end.__name__)
def test_a_notebook_outlives_its_replica(
    database: Database,
    tmp_path: Path,
    rounds: Callable[[int], int],
    end: Callable[[JupyterServer], None],
) -> None:
    number = rounds(20)
    with cluster(database, tmp_path) as one:
        for turn in range(number):
            # In turn each of them is the one that ends.
            serving, other = one.replicas[turn % 2], one.replicas[1 - turn % 2]
            session = serving.create(f"{turn}.ipynb")
            session_id, kernel_id = session["id"], session["kernel"]["id"]
            assert serving.execute(kernel_id, f"x = {turn}") == ""
            end(serving)
            # At once: nobody waits for a lease.
            assert [model["id"] for model in other.sessions()] == [session_id]
            assert other.create(f"{turn}.ipynb")["id"] == session_id
            assert other.execute(kernel_id, "print(x + 1)") == f"{turn + 1}\n"
            if end is restart:
                assert serving.execute(kernel_id, "print(x + 2)") == f"{turn + 2}\n"
            else:
                serving.start()
            assert one.settle() == [session_id]
            assert other.delete(session_id).status_code == 204
            assert one.settle() == []
        one.check()
    print(
        f"{number} rounds of {end.__name__}: 0 sessions and 0 kernels lost, "
        "0 kernels without a session."
    )


def test_a_websocket_right_after_a_post_to_another_replica(
    database: Database, tmp_path: Path, rounds: Callable[[int], int], seed: int
) -> None:
    number, choose = rounds(200), random.Random(seed)
    with cluster(database, tmp_path, number=3) as one:
        for turn in range(number):
            asked, connected = choose.sample(one.replicas, 2)
            session = asked.create(f"{turn}.ipynb")
            with connected.channels(session["kernel"]["id"]) as channels:
                assert channels.execute(f"print({turn})") == f"{turn}\n"
            assert choose.choice(one.replicas).delete(session["id"]).status_code == 204
        assert one.settle() == []
        one.check()
    print(f"{number} requests for a websocket right after a POST to another: {number} connected.")


def test_every_path_attaches(database: Database, tmp_path: Path) -> None:
    """Each of them is the first that a replica hears of the kernel."""
    with cluster(database, tmp_path) as one:
        asked, other = one.replicas

        def new(name: str) -> tuple[str, str]:
            session = asked.create(f"{name}.ipynb")
            return session["id"], session["kernel"]["id"]

        _, kernel_id = new("get")
        assert other.api.get(f"/api/kernels/{kernel_id}").json()["id"] == kernel_id
        _, kernel_id = new("interrupt")
        assert other.api.post(f"/api/kernels/{kernel_id}/interrupt").status_code == 204
        _, kernel_id = new("restart")
        asked.execute(kernel_id, "x = 1")
        assert other.api.post(f"/api/kernels/{kernel_id}/restart").json()["id"] == kernel_id
        assert other.execute(kernel_id, "print('x' in dir())") == "False\n"
        session_id, kernel_id = new("rename")
        renamed = other.model(other.patch(session_id, path="renamed.ipynb"), 200)
        assert renamed["kernel"]["id"] == kernel_id
        session_id, _ = new("move")
        moved = other.model(other.patch(session_id, kernel={"id": kernel_id}), 200)
        assert moved["kernel"]["id"] == kernel_id
        _, kernel_id = new("share")
        shared = other.create("beside.ipynb", kernel={"id": kernel_id})
        assert shared["kernel"]["id"] == kernel_id
        session_id, _ = new("delete")
        assert other.delete(session_id).status_code == 204
        session_id, kernel_id = new("shut down")
        assert other.api.delete(f"/api/kernels/{kernel_id}").status_code == 204
        # A list waits for a second at most until the gateway says that a kernel is gone.
        until(lambda: kernel_id not in asked.kernels(), why="the gateway says it")
        until(
            lambda: session_id not in [model["id"] for model in asked.sessions()],
            why="the gateway says it",
        )
        new("list")
        assert len(one.settle()) == 8
        assert sorted(other.kernels()) == sorted(asked.kernels()) == sorted(one.gateway.kernels())
        one.check()


def ask_alone(one: Cluster, method: str, body: Model | None = None) -> httpx.Response:
    """Ask the balancer for sessions on a connection that no other thread shares.

    A pool that keeps none closes sockets which other threads are about to read.
    """
    return httpx.request(
        method,
        f"{one.front.url}/api/sessions",
        json=body,
        headers=one.front.api.headers,
        timeout=one.front.api.timeout,
        trust_env=False,
        verify=False,
    )


def post_alone(one: Cluster, path: str) -> httpx.Response:
    """Ask the balancer for the session of a notebook at a path."""
    return ask_alone(one, "POST", {"path": path, "name": path, "type": "notebook"})


def test_concurrent_posts_of_one_path_to_all_replicas(
    database: Database, tmp_path: Path, rounds: Callable[[int], int]
) -> None:
    number = rounds(20)
    with cluster(database, tmp_path) as one, ThreadPoolExecutor(AT_ONCE + SPREAD) as threads:
        began = time.monotonic()
        session = one.front.create("how-long-a-start-takes.ipynb")
        usual = time.monotonic() - began
        assert one.front.delete(session["id"]).status_code == 204
        for turn in range(number):
            answers = ask(threads, partial(post_alone, one, f"{turn}.ipynb"), usual)
            results = Counter(gist(answer.result()) for answer in answers.all)
            assert len(results) == 1, results
            ((status, session_id, kernel_id),) = results
            assert status == 201
            (row,) = rows_of(database)
            assert (row.session_id, row.kernel_id) == (session_id, kernel_id)
            assert one.settle() == [session_id]
            assert one.gateway.kernels() == [kernel_id]
            assert one.front.delete(session_id).status_code == 204
            assert one.settle() == []
        one.check()
    print(
        f"{number} rounds of {AT_ONCE} + {SPREAD} POSTs of one path to 2 replicas: "
        "1 session, 1 kernel and 1 id in each."
    )


#: What a balancer answers as long as it has not noticed that a replica has ended.
BALANCERS_OWN = frozenset({502, 503, 504})
#: What each cell does: a kernel that was restarted does not know `n`.
_CELL = "n += 1\nprint(n, os.getpid())"


@dataclass
class Notebook:
    """A front end that runs a cell again and again, and comes back when its connection breaks.

    Parameters
    ----------
    cluster : Cluster
    session : dict
        As it was created.
    """

    cluster: Cluster
    session: Model
    count: int = 0
    pids: set[str] = field(default_factory=set)
    executed: int = 0
    reconnected: int = 0

    def work(self, ended: threading.Event) -> None:
        """Run the cell until the end."""
        kernel_id = self.session["kernel"]["id"]
        while not ended.is_set():
            try:
                with self.cluster.front.channels(kernel_id) as channels:
                    if not self.executed:
                        channels.execute("import os; n = 0")
                    while not ended.is_set():
                        self.look_at(channels.execute(_CELL))
            except websocket.WebSocketBadStatusException as error:
                if error.status_code not in BALANCERS_OWN:
                    raise
            except (OSError, websocket.WebSocketException):
                self.reconnected += 1
            time.sleep(0.1)

    def look_at(self, text: str) -> None:
        """Check that the counter went on, in the same process."""
        count, pid = text.split()
        # More by two or more where an answer was lost.
        assert int(count) > self.count
        self.count = int(count)
        self.pids.add(pid)
        self.executed += 1


def list_while(one: Cluster, ids: list[str], ended: threading.Event) -> int:
    """Ask for the sessions until the end, and return how often they were all listed."""
    complete = 0
    while not ended.is_set():
        try:
            # Another thread waits with the balancer's client for a replica that starts.
            answer = ask_alone(one, "GET")
        except httpx.TransportError:
            # So a balancer asks for another try, where a connection that was used before broke.
            continue
        assert answer.status_code in {200, *BALANCERS_OWN}, answer.text
        if answer.status_code == 200:
            assert [model["id"] for model in answer.json()] == ids
            complete += 1
        time.sleep(0.2)
    return complete


def went_on(notebooks: Sequence[Notebook], before: Sequence[int]) -> bool:
    """Return whether each notebook has run a cell since then."""
    return all(one.executed > count for one, count in zip(notebooks, before, strict=True))


@pytest.mark.extended("rolling restarts")
def test_a_rolling_restart_under_load(
    database: Database, tmp_path: Path, rounds: Callable[[int], int]
) -> None:
    number, ended = rounds(5), threading.Event()
    with cluster(database, tmp_path) as one, ThreadPoolExecutor(11) as threads:
        notebooks = [Notebook(one, one.front.create(f"{place}.ipynb")) for place in range(10)]
        ids = [notebook.session["id"] for notebook in notebooks]
        try:
            working = [threads.submit(notebook.work, ended) for notebook in notebooks]
            listing = threads.submit(list_while, one, ids, ended)
            for _ in range(number):
                for replica in one.replicas:
                    before = [notebook.executed for notebook in notebooks]
                    replica.stop()
                    replica.start()
                    one.balance()
                    until(partial(went_on, notebooks, before), why="each notebook goes on")
        finally:
            ended.set()
        for work in working:
            work.result()
        assert listing.result() > 0
        assert one.settle() == ids
        for notebook in notebooks:
            assert len(notebook.pids) == 1, "a kernel was restarted"
            assert notebook.reconnected > 0
        one.check()
    print(
        f"{number} rounds of a restart of each of 2 replicas: "
        f"{sum(notebook.executed for notebook in notebooks)} cells in 10 notebooks, "
        f"{sum(notebook.reconnected for notebook in notebooks)} connections broken, 0 kernels "
        f"restarted, {listing.result()} lists, all complete."
    )
