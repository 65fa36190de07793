"""A change whose answers were lost was perhaps counted twice: its version says nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.servers.heartbeat import Heartbeat
from tests.unit.dummies import make_manager, settle, stored


async def renew(manager: PersistentSessionManager) -> None:
    """Renew the lease, and wait until the store was made equal to memory."""
    await manager._store._renew()
    # What the heartbeat's thread has handed to the loop.
    await asyncio.sleep(0)
    await settle(manager)


async def test_the_version_that_a_row_has_hides_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    # No renewal comes by itself.
    monkeypatch.setattr(Heartbeat, "note_failure", lambda _: None)
    manager = make_manager()
    model = await manager.create_session(path="a.ipynb", name="", type="notebook")
    # From the second one on the versions are read.
    await renew(manager)
    await renew(manager)
    real = manager.store.mirror_change

    async def lose_answers(*args: Any, **kwargs: Any) -> None:
        # It is made again on a new connection.
        await real(*args, **kwargs)
        await real(*args, **kwargs)
        raise StoreUnavailable("the connection was lost")

    with monkeypatch.context() as patched:
        patched.setattr(manager.store, "mirror_change", lose_answers)
        await manager.update_session(model["id"], path="b.ipynb")
    await manager.update_session(model["id"], path="c.ipynb")
    assert manager.sessions.unsynchronized == 1

    await renew(manager)
    assert manager.sessions.unsynchronized == 0
    assert [one.path for one in await stored(manager)] == ["c.ipynb"]
    # Nothing differs, and nothing is sent.
    before = manager.store.describe().statements
    await renew(manager)
    assert manager.store.describe().statements == before + 2
    manager.close()
