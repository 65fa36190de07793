"""Who is alive, seen by looking again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jupyter_session_store.web.pages import app
from jupyter_session_store.web.pages.watch import INTERVAL, ServerWatch

KEY = ("hub:ada/", "one")


def looked(watch: ServerWatch, renewals: int, *moments: float) -> str:
    for moment in moments:
        watch.look([(*KEY, renewals, 90)], moment)
    return watch.of(KEY, moments[-1]).liveness


def test_a_server_is_unknown_until_it_renews() -> None:
    watch = ServerWatch()
    assert watch.of(KEY, 0).liveness == "unknown"
    assert looked(watch, 5, 0, 10, 20) == "unknown"
    assert looked(watch, 6, 30) == "alive"


def test_a_lease_that_ran_out_while_it_was_watched() -> None:
    watch = ServerWatch()
    assert looked(watch, 5, 0) == "unknown"
    # Not before: the last renewal may have come just after the first look.
    assert looked(watch, 5, *range(10, 101, 10)) == "unknown"
    assert looked(watch, 5, 110) == "silent"
    assert watch.of(KEY, 110).silent_seconds == 110
    assert watch.silent(110, None) == watch.silent(110, "hub:ada/") == [KEY]
    assert watch.silent(110, "hub:bob/") == []
    assert watch.count(110, None) == {"alive": 0, "silent": 1, "unknown": 0}
    assert looked(watch, 6, 120) == "alive"


def test_nobody_is_silent_who_could_not_be_heard() -> None:
    """After a gap, a suspended machine or a store that was away, all are watched anew."""
    watch = ServerWatch()
    looked(watch, 5, *range(0, 91, 10))
    assert looked(watch, 5, 91 + 4 * INTERVAL) == "unknown"
    watch.forget()
    assert watch.of(KEY, 200).liveness == "unknown"
    assert watch.count(200, None) == {"alive": 0, "silent": 0, "unknown": 0}


def test_a_server_that_departed_is_forgotten() -> None:
    watch = ServerWatch()
    looked(watch, 5, 0)
    watch.look([], 10)
    assert watch.of(KEY, 10).liveness == "unknown"
    assert watch.count(10, None) == {"alive": 0, "silent": 0, "unknown": 0}


async def test_a_look_that_fails_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[int] = []
    repeated = asyncio.Event()

    class Reader:
        async def look(self) -> None:
            looks.append(1)
            if len(looks) == 1:
                raise ZeroDivisionError
            repeated.set()

    reader: Any = Reader()
    watching = asyncio.ensure_future(app.watch(reader, 0))
    await asyncio.wait(
        [watching, asyncio.ensure_future(repeated.wait())], return_when="FIRST_COMPLETED"
    )
    assert not watching.done()
    watching.cancel()
    assert "The leases could not be read; they are read again." in caplog.text
