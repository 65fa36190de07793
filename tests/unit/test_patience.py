"""How long a request waits for the store: ten seconds in all, however often it asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.sessions import patience
from jupyter_session_store.sessions.patience import Patience
from tests.unit.dummies import (
    NOTEBOOK,
    kernels_of,
    make_manager,
    settle,
    shared_manager,
    stored,
)


async def test_what_was_waited_for_one_answer_is_not_waited_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = 1000.0
    waits: list[float | None] = []

    async def wait_for(answer: Awaitable[object], timeout: float | None) -> object:
        waits.append(timeout)
        return await answer

    async def answer(seconds: float) -> str:
        nonlocal moment
        moment += seconds
        return "answer"

    async def refuse() -> None:
        raise StoreUnavailable("test")

    monkeypatch.setattr(time, "monotonic", lambda: moment)
    monkeypatch.setattr(asyncio, "wait_for", wait_for)
    own = Patience(10)
    for seconds in (7, 1, 9):
        assert await own.wait_for(answer(seconds)) == "answer"
    assert not own.failed.done()
    with pytest.raises(StoreUnavailable):
        await own.wait_for(refuse())
    assert isinstance(own.failed.result(), StoreUnavailable)
    # A little more: the call's own time-out tells the log.
    assert waits[:3] == [10.1, 3.1, 2.1]
    assert waits[3] is not None
    assert 0 < waits[3] < 1


async def test_an_answer_that_does_not_come_is_a_fault() -> None:
    own = Patience(0.05)
    with pytest.raises(StoreUnavailable, match="waiting"):
        await own.wait_for(asyncio.Event().wait())
    assert own.failed.done()


async def test_what_goes_on_afterwards_has_all_its_time() -> None:
    manager = make_manager()
    tasks, own = manager.tasks, Patience(1)

    async def look() -> Patience | None:
        return tasks.patience

    async def look_and_spawn() -> list[Patience | None]:
        return [await look(), await tasks.spawn(look()), await tasks.finish(look())]

    assert await tasks.spawn(look_and_spawn(), own) == [own, None, None]
    assert tasks._patience == {}
    manager.close()


def locking(manager: PersistentSessionManager, verb: str) -> asyncio.Event:
    """Let a verb of the store be refused, and another wait then until the event is set."""
    unlocked = asyncio.Event()
    done = {name: getattr(manager.store, name) for name in ("find", "remove")}

    async def refuse(*_: Any, **__: Any) -> None:
        for name in done:
            setattr(manager.store, name, wait_and(name))
        raise StoreUnavailable("it is locked")

    def wait_and(name: str) -> Any:
        async def wait(*arguments: Any, **options: Any) -> Any:
            await unlocked.wait()
            return await done[name](*arguments, **options)

        return wait

    setattr(manager.store, verb, refuse)
    return unlocked


async def test_a_refused_post_is_answered_before_it_is_undone(tmp_path: Path) -> None:
    manager = shared_manager(str(tmp_path / "sessions.db"))
    kernels = kernels_of(manager)
    # The kernel starts between the claim and this.
    unlocked = locking(manager, "update")
    for _ in range(2):
        # The second while the first is being undone.
        with pytest.raises(StoreUnavailable) as refused:
            await asyncio.wait_for(manager.get_or_create_session(**NOTEBOOK), 30)
        # A client is not told the reason.
        assert "locked" in str(refused.value.__cause__)
    assert len(kernels.started) == 1
    assert kernels.shut_down == []
    unlocked.set()
    await settle(manager)
    assert kernels.shut_down == kernels.started
    for verb in ("update", "find", "remove"):
        vars(manager.store).pop(verb, None)
    assert await manager.store.find(manager.scope) == []
    model = await manager.get_or_create_session(**NOTEBOOK)
    assert [one.session_id for one in await stored(manager)] == [model["id"]]
    manager.close()


def delay(manager: PersistentSessionManager, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have each answer of the store come 0.7 s later; return what counts them."""
    repository: Any = manager.store
    worker = repository._measured._worker
    run = worker.run
    made: list[int] = []

    async def late(call: Any, timeout: float) -> Any:
        await asyncio.sleep(4.2)
        answer = await run(call, timeout)
        made.append(1)
        return answer

    monkeypatch.setattr(worker, "run", late)
    return made


async def refused_in_time(request: Awaitable[object]) -> None:
    """Check that a request has waited for a second in all."""
    with pytest.raises(StoreUnavailable) as refused:
        await asyncio.wait_for(request, 30)
    assert "waiting for 8 s" in str(refused.value.__cause__)


async def test_a_post_waits_for_the_store_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its questions is answered late, as behind a renewal that waits for a lock."""
    monkeypatch.setattr(patience, "REQUEST_SECONDS", 8.0)
    manager = shared_manager(str(tmp_path / "sessions.db"))
    await manager.list_sessions()
    made = delay(manager, monkeypatch)
    await refused_in_time(manager.get_or_create_session(**NOTEBOOK))
    # The look was answered, and the row was not added any more.
    assert made == [1]
    await settle(manager)
    monkeypatch.undo()
    assert await manager.list_sessions() == []
    manager.close()


async def test_a_delete_is_answered_in_time_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = shared_manager(str(tmp_path / "sessions.db"))
    model = await manager.get_or_create_session(**NOTEBOOK)
    monkeypatch.setattr(patience, "REQUEST_SECONDS", 8.0)
    made = delay(manager, monkeypatch)
    await refused_in_time(manager.delete_session(model["id"]))
    assert made == [1]
    await settle(manager)
    monkeypatch.undo()
    # To its end, as for a client who has gone away.
    assert await manager.list_sessions() == []
    kernels = kernels_of(manager)
    assert kernels.shut_down == kernels.started
    manager.close()


async def test_a_move_is_answered_in_time_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = shared_manager(str(tmp_path / "sessions.db"))
    model = await manager.get_or_create_session(**NOTEBOOK)
    monkeypatch.setattr(patience, "REQUEST_SECONDS", 8.0)
    delay(manager, monkeypatch)
    await refused_in_time(manager.change_session(model["id"], kernel_name="other"))
    await settle(manager)
    monkeypatch.undo()
    [moved] = await manager.list_sessions()
    assert moved["kernel"]["name"] == "other"
    kernels = kernels_of(manager)
    assert kernels.shut_down == kernels.started[:1]
    assert [one.state for one in await stored(manager)] == ["ready"]
    manager.close()


@pytest.mark.parametrize("verb", ["get", "list", "rename"])
async def test_one_question_that_takes_long_is_answered_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    manager = shared_manager(str(tmp_path / "sessions.db"))
    model = await manager.get_or_create_session(**NOTEBOOK)
    monkeypatch.setattr(patience, "REQUEST_SECONDS", 0.1)
    delay(manager, monkeypatch)
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: manager.get_session(session_id=model["id"]),
        "list": manager.list_sessions,
        "rename": lambda: manager.change_session(model["id"], name="n"),
    }
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(asked[verb](), 30)
    await settle(manager)
    monkeypatch.undo()
    [found] = await manager.list_sessions()
    assert found["name"] == ("n" if verb == "rename" else "")
    manager.close()
