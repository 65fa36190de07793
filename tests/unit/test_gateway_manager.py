"""The kernel manager for a gateway: what it holds, and what it makes of each of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest
from tornado import web

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.kernels.gateway import api
from jupyter_session_store.kernels.gateway.api import Answer
from jupyter_session_store.kernels.gateway.manager import PersistentGatewayKernelManager
from jupyter_session_store.records import Liveness
from tests.unit.fake_gateway import FakeGateway

REFUSED = Answer(403, {"message": "Forbidden", "reason": None})
SILENCE = Answer(0, None)


@pytest.fixture
def manager() -> PersistentGatewayKernelManager:
    return PersistentGatewayKernelManager()


async def state_of(manager: PersistentGatewayKernelManager, kernel_id: str) -> str:
    """Return what is shown of a kernel."""
    return str((await manager.kernel_model(kernel_id))["execution_state"])


async def test_two_managers_hold_nothing_in_common(gateway: FakeGateway) -> None:
    gateway.run("a")
    one, two = PersistentGatewayKernelManager(), PersistentGatewayKernelManager()
    assert await one.attach("a") is Liveness.ALIVE
    assert one.list_kernel_ids() == ["a"]
    assert two.list_kernel_ids() == []


async def test_it_holds_what_it_is_told_of_and_nothing_else(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    gateway.run("mine", "another's")
    assert await manager.refresh(["mine", "gone"]) == {
        "mine": Liveness.ALIVE,
        "gone": Liveness.GONE,
    }
    assert manager.list_kernel_ids() == ["mine"]
    kernel: Any = manager.get_kernel("mine")
    assert kernel.last_activity.isoformat() == "2026-01-02T03:04:05.000006+00:00"
    assert manager._kernel_connections["mine"] == 2
    assert [model["id"] for model in await manager.list_kernels()] == ["mine"]


async def test_many_who_attach_at_once_share_one_entry(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    gateway.run("a")
    await asyncio.gather(*(manager.attach("a") for _ in range(20)), manager.refresh(["a"]))
    assert manager.list_kernel_ids() == ["a"]
    kernel = manager.get_kernel("a")
    await manager.attach("a")
    assert manager.get_kernel("a") is kernel


async def test_a_kernel_that_the_gateway_does_not_have_leaves_no_entry(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    assert await manager.attach("a") is Liveness.GONE
    gateway.answer = SILENCE
    assert await manager.attach("a") is Liveness.UNKNOWN
    assert manager.list_kernel_ids() == []


@pytest.mark.parametrize(
    "answer",
    [
        SILENCE,
        Answer(404, {"message": "Not Found"}),
        Answer(404, "<p>The requested URL /api/kernels/a was not found</p>"),
        Answer(404, {"message": "Route GET:/api/kernels/a not found"}),
        Answer(500, {"message": "a"}),
        Answer(200, {"id": "b"}),
        Answer(200, "a"),
        Answer(502, None),
    ],
    ids=str,
)
async def test_only_the_gateways_own_word_takes_an_entry_out(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager, answer: Answer
) -> None:
    gateway.run("a")
    await manager.attach("a")
    gateway.answer = answer
    await manager.refresh()
    assert await state_of(manager, "a") == "unknown"
    assert await manager.attach("a") is Liveness.UNKNOWN
    kernel: Any = manager.get_kernel("a")
    with pytest.raises(web.HTTPError, match="503"):
        await kernel.refresh_model()
    gateway.answer = None
    assert await manager.refresh() == {"a": Liveness.ALIVE}
    assert await state_of(manager, "a") == "idle"
    del gateway.models["a"]
    assert await manager.refresh() == {"a": Liveness.GONE}
    assert manager.list_kernel_ids() == []


async def test_one_request_for_all_where_the_gateway_lists_them(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    assert await manager.list_kernels() == []
    assert gateway.asked == [], "nobody has a kernel"
    names = [f"k{number}" for number in range(100)]
    gateway.run(*names)
    await manager.refresh(names)
    assert gateway.asked == ["all"]


async def test_a_gateway_that_does_not_list_is_asked_for_each(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    gateway.run("a", "b")
    gateway.of_a_list = REFUSED
    known = await manager.refresh(["a", "b", "c"])
    assert known == {"a": Liveness.ALIVE, "b": Liveness.ALIVE, "c": Liveness.GONE}
    assert sorted(manager.list_kernel_ids()) == ["a", "b"]


async def test_who_is_asked_for_singly_is_waited_for_briefly(
    gateway: FakeGateway,
    manager: PersistentGatewayKernelManager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the answer that comes later counts."""
    gateway.run("a")
    await manager.attach("a")
    gateway.of_a_list = REFUSED
    slow, ask = asyncio.Event(), gateway.ask

    async def late(method: str, kernel_id: str | None = None, **how: Any) -> Answer:
        if kernel_id is not None:
            await slow.wait()
        return await ask(method, kernel_id)

    monkeypatch.setattr(api, "request", late)
    monkeypatch.setattr("jupyter_session_store.kernels.gateway.manager._GRACE", 0.01)
    assert await manager.refresh() == {"a": Liveness.UNKNOWN}
    assert await state_of(manager, "a") == "unknown"
    slow.set()
    await asyncio.sleep(0.01)
    assert await state_of(manager, "a") == "idle"


async def test_no_list_while_the_gateway_is_silent(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    gateway.run("a")
    await manager.attach("a")
    gateway.answer = SILENCE
    with pytest.raises(web.HTTPError, match="503"):
        await manager.list_kernels()
    assert manager.list_kernel_ids() == ["a"]


@pytest.mark.parametrize("status", [200, 404, 502])
async def test_a_shutdown_that_the_gateway_did_not_confirm_ends_nothing(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager, status: int
) -> None:
    gateway.run("a")
    await manager.attach("a")
    gateway.status = status
    shutdown: Any = manager.shutdown_kernel
    with pytest.raises(web.HTTPError, match=r"50[23]"):
        await shutdown("a")
    assert manager.list_kernel_ids() == ["a"]
    del gateway.models["a"]
    gateway.status = 404
    await shutdown("a")
    assert manager.list_kernel_ids() == []


def using(*kernel_ids: str) -> Any:
    """Return what says that sessions use these kernels."""

    async def used(asked: Collection[str]) -> set[str]:
        await asyncio.sleep(0)
        return set(kernel_ids) & set(asked)

    return used


async def test_a_stop_ends_only_what_it_started_for_nobody(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    gateway.run("attached")
    await manager.attach("attached")
    mine, unused = [await manager.start_kernel() for _ in range(2)]
    manager.in_use_check = using(mine)
    await manager.shutdown_all()
    assert gateway.ended == [unused]
    assert manager.list_kernel_ids() == []


async def test_a_stop_ends_nothing_if_the_store_cannot_be_asked(
    gateway: FakeGateway, manager: PersistentGatewayKernelManager
) -> None:
    async def used(asked: Collection[str]) -> set[str]:
        await asyncio.sleep(0)
        raise StoreUnavailable("test")

    await manager.start_kernel()
    manager.in_use_check = used
    await manager.shutdown_all()
    assert gateway.ended == []
    await manager.start_kernel()
    manager.in_use_check = None
    await manager.shutdown_all()
    assert gateway.ended == []


async def test_a_setting_brings_the_stock_stop_back(gateway: FakeGateway) -> None:
    manager = PersistentGatewayKernelManager(detach_on_stop=False)
    gateway.run("attached")
    await manager.attach("attached")
    started = await manager.start_kernel()
    await manager.shutdown_all()
    assert sorted(gateway.ended) == sorted(["attached", started])


async def test_a_stop_goes_on_if_a_kernel_cannot_be_ended(
    gateway: FakeGateway,
    manager: PersistentGatewayKernelManager,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await manager.start_kernel()
    manager.in_use_check = using()
    gateway.status = 502
    await manager.shutdown_all()
    assert "Could not shut down 1 kernel(s). They may go on running." in caplog.text
    assert manager.list_kernel_ids() == []


async def test_a_stop_as_the_stock_one_goes_on_if_a_kernel_cannot_be_ended(
    gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    manager = PersistentGatewayKernelManager(detach_on_stop=False)
    for _ in range(2):
        await manager.start_kernel()
    gateway.status = 502
    await manager.shutdown_all()
    assert "Could not shut down 2 kernel(s). They may go on running." in caplog.text
    assert manager.list_kernel_ids() == []


async def test_culling_is_left_to_the_gateway(
    gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    manager = PersistentGatewayKernelManager(cull_idle_timeout=1)
    await manager.start_kernel()
    await manager.start_kernel()
    assert manager._culler_callback is None
    assert caplog.text.count("EG_CULL_IDLE_TIMEOUT") == 1
