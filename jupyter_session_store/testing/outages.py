"""What the contract says of the event loop, and of a store that is away."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, suppress
from functools import partial
from time import perf_counter, sleep
from typing import Any, Final, TypeVar

import pytest

from ..errors import StoreUnavailable
from ..records import Departure, Scope
from ..repository import SessionRepository as Repository
from .samples import SCOPE, add, in_event_loops, record, run, server

T = TypeVar("T")

#: What returns a context manager, within which the store is away.
Unreachable = Callable[[], AbstractContextManager[object]]
Verb = Callable[[Repository], Coroutine[Any, Any, object]]

#: Seconds for which a verb may hold the event loop up: usually, and while the store is away.
_LONGEST_PAUSE: Final = 0.05
_LONGEST_PAUSE_AWAY: Final = 0.25
#: How often a verb is tried: what only a busy machine holds up is not held up each time.
_ATTEMPTS: Final = 8
#: Seconds between the first two; each further pause is longer by as many.
_PAUSE: Final = 0.1
#: Seconds in which a verb says that the store is away, by far.
_BOUND: Final = 30

_WRITES: Final[dict[str, Verb]] = {
    "add": lambda one: one.add(record("new")),
    "update": lambda one: one.update(SCOPE, "a", {"name": "n"}),
    "begin_close": lambda one: one.begin_close(SCOPE, "a", "one"),
    "move": lambda one: one.move(SCOPE, "b", "kernel of b", {"kernel_id": "kernel of b"}),
    "remove": lambda one: one.remove(SCOPE, [record("c")]),
    "mirror": lambda one: one.mirror(SCOPE, lambda: [record("a", name="m", version=99)]),
    "mirror_change": lambda one: one.mirror_change(
        record("b"), record("b", name="changed", version=2)
    ),
}
_VERBS: Final[dict[str, Verb]] = {"find": lambda one: one.find(SCOPE), **_WRITES}


class UnprovenContract(UserWarning):
    """A part of the contract was not proven, because a fixture is missing."""


class _Waiting(Awaitable[object]):
    """A verb, and whether it has ever given the event loop up."""

    def __init__(self, verb: Coroutine[Any, Any, object]) -> None:
        self._verb = verb
        self.has_waited = False

    def __await__(self) -> Generator[Any, Any, object]:
        inner = self._verb.__await__()
        step: Callable[[], Any] = partial(next, inner)
        while True:
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            self.has_waited = True
            try:
                step = partial(inner.send, (yield waits_for))
            except BaseException as error:
                step = partial(inner.throw, error)


async def _watched(verbs: Iterable[Awaitable[Any]]) -> tuple[list[Any], float]:
    """Run verbs at once, beside a task that watches the event loop.

    Returns what they returned or raised, and the longest time that the loop stood still.
    """
    running = asyncio.ensure_future(
        asyncio.wait_for(asyncio.gather(*verbs, return_exceptions=True), _BOUND)
    )
    longest, last = 0.0, perf_counter()
    while not running.done():
        await asyncio.sleep(0.001)
        now = perf_counter()
        longest, last = max(longest, now - last), now
    return await running, longest


def _while_away(unreachable: Unreachable, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return what is asked of a store that is away; fail if there is no answer in time."""
    # In another thread: if the event loop is blocked, the store has to come back all the same.
    with ThreadPoolExecutor(1) as executor, unreachable():
        asked = executor.submit(lambda: run(ask()))
        try:
            return asked.result(2 * _BOUND)
        except FutureTimeoutError:
            pytest.fail(
                f"a verb has blocked the event loop for {2 * _BOUND} s, the store being away"
            )


@in_event_loops
class OutageContract:
    """That no verb blocks the event loop, and what each does while the store is away."""

    @pytest.fixture
    def unreachable(self) -> Unreachable:
        """Return a function that returns a context manager, within which the store is away.

        To be overridden: it stops the store of ``make_repository``, or cuts the way to it, and
        starts it again at the end. Without it what needs it is skipped, with a warning.
        """
        text = (
            f"{type(self).__name__} has no fixture 'unreachable'. It is not proven that each verb "
            "raises StoreUnavailable while the store is away, that none blocks the event loop "
            "then, and that open() waits for no store. Override it: see How to write a plugin."
        )
        warnings.warn(UnprovenContract(text), stacklevel=2)
        pytest.skip(text)

    @pytest.mark.parametrize("verb", _VERBS)
    async def test_a_verb_does_not_block_the_event_loop(
        self, repository: Repository, verb: str
    ) -> None:
        await add(repository, *map(record, "abc"))
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(_PAUSE * attempt)
            asked = _Waiting(_VERBS[verb](repository))
            (result,), longest = await _watched([asked])
            assert not isinstance(result, BaseException), result
            assert asked.has_waited or verb not in _WRITES, (
                f"{verb}() has changed the store without a wait for it: it blocks the event loop"
            )
            if longest < _LONGEST_PAUSE:
                return
        raise AssertionError(f"{verb}() has blocked the event loop for {longest:.3f} s, each time")

    def test_a_store_that_is_away_is_unavailable_and_blocks_nobody(
        self, repository: Repository, unreachable: Unreachable
    ) -> None:
        run(add(repository, *map(record, "abc")))
        [dead] = [
            one for one in repository.renew(server("two"), [], timeout=60) if one.server_id == "two"
        ]
        verbs: dict[str, Verb] = {
            **_VERBS,
            "renew": lambda one: asyncio.to_thread(one.renew, server("one"), [], timeout=1),
            "evict": lambda one: asyncio.to_thread(one.evict, SCOPE, [dead], "one", timeout=1),
        }
        for attempt in range(_ATTEMPTS):
            sleep(_PAUSE * attempt)
            results, longest = _while_away(
                unreachable, lambda: _watched(verb(repository) for verb in verbs.values())
            )
            for name, result in zip(verbs, results, strict=True):
                # A store may let its sessions be read while nothing can be written.
                if name != "find" or isinstance(result, BaseException):
                    assert isinstance(result, StoreUnavailable), (
                        f"{name}() while the store is away: found {result!r}; expected "
                        "StoreUnavailable"
                    )
            # It is used again, by the next call.
            run(repository.find(SCOPE))
            assert "one" in {
                one.server_id for one in repository.renew(server("one"), [], timeout=60)
            }
            if longest < _LONGEST_PAUSE_AWAY:
                return
        raise AssertionError(f"the event loop was blocked for {longest:.3f} s, each time")

    def test_an_open_and_a_close_while_the_store_is_away_are_no_errors(
        self, make_repository: Callable[[], Repository], unreachable: Unreachable
    ) -> None:
        repository, leaving = make_repository(), make_repository()
        # What a departure removes may go as late as after the outage.
        other = Scope(SCOPE.namespace, "server:two")
        leaving.open(other, server("two"), timeout=60)
        with unreachable():
            repository.open(SCOPE, server("one"), timeout=1)
            with pytest.raises(StoreUnavailable):
                run(repository.add(record("early")))
            leaving.close(Departure(other, "two", frozenset()), timeout=1)
            # What a store does not tell of itself it does not tell now, either.
            with suppress(StoreUnavailable):
                assert make_repository().read_all(timeout=1) is None
        run(repository.add(record("a")))
        assert "a" in {one.session_id for one in run(repository.find(SCOPE))}
        servers = repository.renew(server("one"), [], timeout=60)
        assert "one" in {one.server_id for one in servers}
        repository.close(timeout=10)
