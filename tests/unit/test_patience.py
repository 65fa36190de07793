"""How long a POST waits for the store: ten seconds in all, however often it asks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.repository import Patience, patience, waiting
from jupyter_session_store.sessions import claims
from tests.unit.dummies import (
    NOTEBOOK,
    DummyKernelManager,
    make_manager,
    settle,
    shared_manager,
    stored,
)

Waits = list[float]


async def test_what_was_waited_for_one_answer_is_not_waited_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    with waiting(10) as seconds:
        assert seconds == 10
    own = Patience(10)
    patience.set(own)
    with waiting(10) as seconds:
        assert seconds == 10
        moment += 7
    with waiting(10) as seconds:
        assert seconds == 3
        moment += 1
    with waiting(1) as seconds:
        assert seconds == 1
        moment += 9
    assert not own.failed.done()
    with pytest.raises(StoreUnavailable):
        fail_after_no_time()
    assert isinstance(own.failed.result(), StoreUnavailable)


def fail_after_no_time() -> None:
    with waiting(10) as seconds:
        assert 0 < seconds < 1
        raise StoreUnavailable("test")


async def test_what_goes_on_afterwards_has_all_its_time() -> None:
    manager = make_manager()
    patience.set(Patience(0))

    async def look() -> object:
        return patience.get()

    assert await manager.tasks.spawn(look()) is None
    assert await manager.tasks.finish(look()) is None
    manager.close()


def locking(manager: PersistentSessionManager, verb: str) -> asyncio.Event:
    """Let a verb of the store be refused, and another wait then until the event is set."""
    unlocked = asyncio.Event()
    done = {name: getattr(manager.store, name) for name in ("find", "remove")}

    async def refuse(*_: Any, **__: Any) -> None:
        for name in done:
            setattr(manager.store, name, wait_and(name))
        with waiting(10):
            raise StoreUnavailable("it is locked")

    def wait_and(name: str) -> Any:
        async def wait(*arguments: Any, **options: Any) -> Any:
            await unlocked.wait()
            return await done[name](*arguments, **options)

        return wait

    setattr(manager.store, verb, refuse)
    return unlocked


@pytest.mark.parametrize("shared", [False, True], ids=["local", "gateway"])
async def test_a_refused_post_is_answered_before_it_is_undone(tmp_path: Path, shared: bool) -> None:
    url = str(tmp_path / "sessions.db")
    manager = shared_manager(url) if shared else make_manager(url)
    kernels = manager.kernel_manager
    assert isinstance(kernels, DummyKernelManager)
    # With a gateway the kernel starts between the two.
    unlocked = locking(manager, "update" if shared else "add")
    for _ in range(2):
        # The second while the first is being undone.
        with pytest.raises(StoreUnavailable, match="locked"):
            await asyncio.wait_for(manager.get_or_create_session(**NOTEBOOK), 30)
    assert len(kernels.started) == 1
    assert kernels.shut_down == []
    unlocked.set()
    await settle(manager)
    assert kernels.shut_down == kernels.started
    for verb in ("add", "update", "find", "remove"):
        vars(manager.store).pop(verb, None)
    assert await manager.store.find(manager.scope) == []
    model = await manager.get_or_create_session(**NOTEBOOK)
    assert [one.session_id for one in await stored(manager)] == [model["id"]]
    manager.close()


async def test_a_post_waits_for_the_store_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its questions is answered late, as behind a renewal that waits for a lock."""
    monkeypatch.setattr(claims, "_REQUEST_SECONDS", 1.0)
    manager = make_manager(str(tmp_path / "sessions.db"))
    await manager.list_sessions()
    waits: Waits = []
    repository: Any = manager.store
    worker = repository._measured._worker
    run = worker.run

    async def late(call: Any, timeout: float) -> Any:
        waits.append(timeout)
        await asyncio.sleep(0.7)
        return await run(call, timeout)

    monkeypatch.setattr(worker, "run", late)
    model = await manager.get_or_create_session(**NOTEBOOK)
    monkeypatch.undo()
    assert waits[0] == 1.0
    assert 0 < waits[1] < 0.5
    assert [one["id"] for one in await manager.list_sessions()] == [model["id"]]
    manager.close()
