"""However many ask for one path at once: one session, one kernel, one id."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import Barrier

import httpx
import pytest

from .conftest import Running
from .rows import rows_of

pytestmark = pytest.mark.system

AT_ONCE = 50
SPREAD = 50


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_concurrent_posts_of_one_path(shared: Running, rounds: Callable[[int], int]) -> None:
    server = shared.server
    began = time.monotonic()
    session = server.create("how-long-a-start-takes.ipynb")
    usual = time.monotonic() - began
    server.delete(session["id"])
    number = rounds(20)
    early = 0

    with ThreadPoolExecutor(AT_ONCE + SPREAD) as threads:
        for turn in range(number):
            answers = ask(threads, partial(server.post, f"one-{turn}.ipynb"), usual)
            early += answers.before_the_first
            results = Counter(gist(answer.result()) for answer in answers.all)
            assert len(results) == 1, results
            ((status, session_id, kernel_id),) = results
            assert status == 201
            assert results.total() == AT_ONCE + SPREAD
            (row,) = rows_of(shared.database)
            assert (row.session_id, row.kernel_id) == (session_id, kernel_id)
            assert [session["id"] for session in server.sessions()] == [session_id]
            assert server.kernels() == [kernel_id]
            assert server.number_of_kernel_processes() == 1
            assert server.delete(session_id).status_code == 204
            assert server.kernels() == []
            assert rows_of(shared.database) == []

    late = number * SPREAD - early
    print(
        f"{number} rounds of {AT_ONCE} + {SPREAD} POSTs of one path: 1 session, 1 kernel and "
        f"1 id in each. Of the {SPREAD}, {early} in all were sent before the first answer, "
        f"{late} after it."
    )


@dataclass(frozen=True)
class Answers:
    all: list[Future[httpx.Response]]
    before_the_first: int


def ask(threads: ThreadPoolExecutor, post: Callable[[], httpx.Response], usual: float) -> Answers:
    """Send all at once, and more from shortly before the first answer to right after it.

    A check before a create leaves a window open there.
    """
    barrier = Barrier(AT_ONCE)

    def together() -> httpx.Response:
        barrier.wait()
        return post()

    answers = [threads.submit(together) for _ in range(AT_ONCE)]
    spread: list[Future[httpx.Response]] = []
    early = 0
    time.sleep(usual * 0.8)
    while len(spread) < SPREAD // 2:
        early += not any(answer.done() for answer in answers)
        spread.append(threads.submit(post))
        time.sleep(usual * 0.4 / SPREAD)
    wait(answers, return_when=FIRST_COMPLETED)
    spread += [threads.submit(post) for _ in range(SPREAD - len(spread))]
    return Answers([*answers, *spread], early)


def gist(answer: httpx.Response) -> tuple[int, str, str]:
    model = answer.json()
    return answer.status_code, model["id"], model["kernel"]["id"]
