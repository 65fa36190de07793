"""A connection that one thread has taken is not closed by another that looks at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from httpcore._backends.sync import SyncStream
from httpcore._sync.http11 import HTTP11Connection

from . import shared_clients

#: Seconds that one thread waits for the other, if that has to wait for it.
_PATIENCE = 1.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_connection_that_was_just_taken_stays_open(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_clients.mend()
    taken, looked_at, answered, looked = (threading.Event() for _ in range(4))
    first: list[int] = []
    look, send, read = (
        SyncStream.get_extra_info,
        HTTP11Connection.handle_request,
        SyncStream.read,
    )

    def is_first() -> bool:
        return threading.get_ident() in first

    def handle_request(self: Any, request: Any) -> Any:
        if is_first():
            taken.set()
            looked_at.wait(_PATIENCE)
        return send(self, request)

    def get_extra_info(self: Any, info: str) -> Any:
        if first and not is_first() and not looked_at.is_set():
            looked_at.set()
            answered.wait(_PATIENCE)
        return look(self, info)

    def receive(self: Any, size: int, timeout: float | None = None) -> bytes:
        if is_first() and not answered.is_set():
            # The answer is on the socket, and its reader has not come to read it.
            looked.wait(0.2)
            answered.set()
            looked.wait(_PATIENCE)
        return read(self, size, timeout)

    with httpx.Client(base_url=url, trust_env=False, verify=False) as client:
        client.get("/")
        monkeypatch.setattr(HTTP11Connection, "handle_request", handle_request)
        monkeypatch.setattr(SyncStream, "get_extra_info", get_extra_info)
        monkeypatch.setattr(SyncStream, "read", receive)

        def ask_first() -> int:
            first.append(threading.get_ident())
            return client.get("/").status_code

        def ask_second() -> int:
            try:
                return client.get("/").status_code
            finally:
                looked.set()

        with ThreadPoolExecutor(2) as threads:
            one = threads.submit(ask_first)
            assert taken.wait(60)
            other = threads.submit(ask_second)
            assert (one.result(), other.result()) == (204, 204)
