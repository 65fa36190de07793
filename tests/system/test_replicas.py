"""Replicas of one server, none of which holds a session of its own: any of them may end."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ..databases import Database
from .cluster import cluster
from .server import JupyterServer

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
