"""HAProxy before several servers: in turn, whoever asks, with nothing that sticks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import ClassVar

from .client import SessionsClient
from .process import JupyterProcess
from .server import JupyterServer

_CONFIG = """
global
    maxconn 4000
defaults
    mode http
    timeout connect 10s
    timeout check 30s
    timeout client 120s
    timeout server 120s
    timeout tunnel 1h
    option redispatch 1
    retries 3
frontend front
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /api
    http-check expect status 200
    default-server check inter 250ms fall 3 rise 1
"""


class Balancer(JupyterProcess, SessionsClient):
    """A balancer before some servers, which share a token.

    Parameters
    ----------
    servers : sequence of JupyterServer
    """

    MODULE: ClassVar[str] = ""
    CONFIG_FILE: ClassVar[str] = "haproxy.cfg"
    # One that was used before may have broken with the server behind it.
    KEPT: ClassVar[int] = 0

    def __init__(self, servers: Sequence[JupyterServer]) -> None:
        self._servers = servers
        super().__init__(token=servers[0].token)

    def configure(self, config: str) -> None:
        """Write the configuration file."""
        lines = [f"    server s{s.port} 127.0.0.1:{s.port}\n" for s in self._servers]
        path = self.directory / "config" / self.CONFIG_FILE
        path.write_text(_CONFIG.format(port=self.port) + "".join(lines))

    def command(self) -> list[str]:
        """Return what is run."""
        program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        assert program is not None, "haproxy is not installed: see `make test` in the README"
        return [program, "-f", str(self.directory / "config" / self.CONFIG_FILE)]
