"""A proxy before a database that can hang: its host goes on to answer, and nobody speaks.

A process for each connection, as some proxies and databases have it. One that is stopped
hangs as a paused machine does, and new connections find a process that speaks.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import socketserver
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

from tests.databases import Database, parameters

_REPOSITORY: Final = Path(__file__).parents[1]


class HangingProxy:
    """A proxy process on 127.0.0.1, and one more for each connection; a context manager.

    Parameters
    ----------
    database : Database
        What it leads to.
    """

    def __init__(self, database: Database) -> None:
        settings = parameters(database.url)
        self._database = database
        self._process = psutil.Popen(
            [sys.executable, "-m", "tests.hanging", settings["host"], str(settings["port"])],
            cwd=_REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._process.stdout.readline())

    @property
    def url(self) -> str:
        """The URL of the database, through this proxy."""
        parts = urlsplit(self._database.url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()

    def hang(self, *, new: bool = False) -> None:
        """Stop the processes of the connections. With `new`, new ones meet nobody either."""
        if new:
            self._process.suspend()
        connections = self._process.children()
        assert connections, "nothing is connected"
        for process in connections:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def suspend(self) -> None:
        """Have new connections meet nobody; those that are there go on."""
        self._process.suspend()

    def go_on(self) -> None:
        """Let every process go on."""
        for process in (self._process, *self._process.children()):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def __enter__(self) -> HangingProxy:
        return self

    def __exit__(self, *error: object) -> None:
        for process in (*self._process.children(), self._process):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process.stdout.close()


class _Connection(socketserver.BaseRequestHandler):
    server: _Proxy
    request: socket.socket

    def handle(self) -> None:
        client = self.request
        with socket.create_connection(self.server.target) as server:
            both = selectors.DefaultSelector()
            for one, other in ((client, server), (server, client)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                both.register(one, selectors.EVENT_READ, other)
            with suppress(OSError):
                while True:
                    for key, _ in both.select():
                        data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        if not data:
                            return
                        key.data.sendall(data)


class _Proxy(socketserver.ForkingTCPServer):
    max_children = 1000

    def __init__(self, host: str, port: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target = (host, int(port))


if __name__ == "__main__":
    # Nothing of it outlives the test, which ends with its pipe.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    proxy = _Proxy(*sys.argv[1:])
    print(proxy.server_address[1], flush=True)
    os.close(sys.stdout.fileno())
    proxy.serve_forever()
