"""A manager over kernels that cost nothing, on each of the repositories of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jupyter_server.gateway import managers as stock

from jupyter_session_store.kernels.gateway import api
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.servers import registered_store
from jupyter_session_store.sessions import mirror
from tests.unit.dummies import DummyKernelManager, make_manager
from tests.unit.fake_gateway import FakeGateway


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests and closes wait for the store until it answers, however busy the machine is."""
    monkeypatch.setattr(mirror, "PATIENCE", 60.0)
    monkeypatch.setattr(registered_store, "OPEN_TIMEOUT", 60.0)
    monkeypatch.setattr(registered_store, "CLOSE_TIMEOUT", 60.0)
    monkeypatch.setattr(registered_store, "_HEARTBEAT_CLOSE_TIMEOUT", 60.0)


@pytest.fixture
def kernels() -> DummyKernelManager:
    return DummyKernelManager()


@pytest.fixture(params=["sqlalchemy", "memory"])
def manager(
    request: pytest.FixtureRequest, kernels: DummyKernelManager
) -> Iterator[PersistentSessionManager]:
    manager = make_manager(kernels=kernels, repository=request.param)
    yield manager
    assert manager._pending_sessions._records == []
    manager.close()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> FakeGateway:
    gateway = FakeGateway()
    monkeypatch.setattr(api, "request", gateway.ask)
    monkeypatch.setattr(stock, "gateway_request", gateway.request)
    return gateway
