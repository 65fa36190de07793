"""Something between a server and its gateway that lets nothing through, or answers by itself."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from .gateway import Gateway

#: As Apache answers: the page says the whole path, a kernel's id included.
_PAGE: Final = (
    "<html><title>{status}</title><p>The requested URL {path} was not found on this server.</html>"
)
#: As a gateway of another prefix answers.
_OBJECT: Final = '{{"message": "Not Found", "reason": null}}'
_STATUS: Final = {404: "Not Found", 502: "Bad Gateway", 500: "Internal Server Error"}

SILENCE: Final = "silence"
#: What can be wrong: the status and the body of each answer, or nothing at all.
FAULTS: Final = {
    "a page of a proxy, 404": (404, "text/html", _PAGE),
    "another prefix, 404": (404, "application/json", _OBJECT),
    "a proxy without its gateway, 502": (502, "text/html", _PAGE),
    "a broken gateway, 500": (500, "text/html", _PAGE),
    "no JSON, 200": (200, "text/html", _PAGE),
    SILENCE: None,
}
#: A gateway that has forgotten to list its kernels; all else goes through.
EMPTY_LIST: Final = "an empty list"


class Proxy:
    """Stands before a gateway; a context manager.

    Parameters
    ----------
    gateway : Gateway
    """

    def __init__(self, gateway: Gateway) -> None:
        self._to = gateway.port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._fault: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._lock = threading.Lock()
        #: How many requests have come.
        self.requests = 0

    @contextmanager
    def failing(self, fault: str) -> Iterator[None]:
        """Let the gateway be so."""
        self._over.clear()
        self._fault = fault
        try:
            yield
        finally:
            self._fault = None
            self._over.set()

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        # Closing alone does not wake who accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Serve a connection, on which tornado's client makes one request."""
        with client, suppress(OSError):
            head = client.recv(65536)
            method, path, _ = head.split(b" ", 2)
            is_list = method == b"GET" and path.endswith(b"/api/kernels")
            with self._lock:
                self.requests += 1
            fault = self._fault
            if fault == EMPTY_LIST and is_list:
                client.sendall(_response(200, "application/json", "[]"))
            elif fault is None or fault == EMPTY_LIST:
                self._forward(client, head)
            elif (answer := FAULTS[fault]) is None:
                self._over.wait()
            else:
                status, kind, body = answer
                client.sendall(_response(status, kind, body.format(status=status, path=path)))

    def _forward(self, client: socket.socket, head: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._to)) as server:
            server.sendall(head)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def _response(status: int, kind: str, body: str) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_STATUS.get(status, 'OK')}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
