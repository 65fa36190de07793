"""What is told of a gateway that refuses, or cannot be reached: never its URL."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from jupyter_server.gateway import managers as stock
from jupyter_server.gateway.managers import GatewayMappingKernelManager
from jupyter_server.services.contents.manager import AsyncContentsManager
from tornado import web
from tornado.httpclient import HTTPClientError

from jupyter_session_store.kernels.gateway.api import may_have_arrived
from jupyter_session_store.kernels.gateway.manager import PersistentGatewayKernelManager
from jupyter_session_store.manager import PersistentSessionManager

URL = "http://user:hunter2@gateway.example.org"


def failing(monkeypatch: pytest.MonkeyPatch, status: int, cause: Exception) -> None:
    """Let Jupyter Server's request fail as it does, with the gateway's URL in its text."""

    async def request(url: str, **how: Any) -> None:
        raise web.HTTPError(status, "Error from Gateway: [%s] %s", "why", URL) from cause

    monkeypatch.setattr(stock, "gateway_request", request)


@pytest.mark.parametrize(
    ("status", "cause", "told"),
    [
        # So Jupyter Server tells of a name that does not resolve.
        (404, socket.gaierror(), 503),
        (503, ConnectionRefusedError(), 503),
        (599, HTTPClientError(599), 503),
        (504, HTTPClientError(504), 503),
        (403, HTTPClientError(403), 403),
        (500, HTTPClientError(500), 500),
    ],
    ids=["name", "refused", "silent", "proxy", "forbidden", "broken"],
)
async def test_the_url_is_in_no_error(
    monkeypatch: pytest.MonkeyPatch, status: int, cause: Exception, told: int
) -> None:
    failing(monkeypatch, status, cause)
    with pytest.raises(web.HTTPError) as raised:
        await PersistentGatewayKernelManager().start_kernel()
    assert raised.value.status_code == told
    assert "hunter2" not in f"{raised.value} {raised.value.args}"
    # It says whether the gateway has heard of it.
    assert raised.value.__cause__ is cause
    assert may_have_arrived(raised.value) is isinstance(cause, HTTPClientError)


@pytest.mark.parametrize("attaches", [True, False])
def test_a_manager_that_cannot_attach_is_warned_of(
    caplog: pytest.LogCaptureFixture, attaches: bool
) -> None:
    kind: Any = PersistentGatewayKernelManager if attaches else GatewayMappingKernelManager
    manager = PersistentSessionManager(
        kernel_manager=kind(),
        contents_manager=AsyncContentsManager(),
        database_filepath=":memory:",
        namespace="tenant",
    )
    manager.close()
    assert ("PersistentGatewayKernelManager" in caplog.text) is not attaches
