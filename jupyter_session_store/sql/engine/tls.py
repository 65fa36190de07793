"""What PyMySQL does at each connect, done once."""

from __future__ import annotations

from ssl import SSLContext
from typing import Any

from sqlalchemy import Engine


def share_default_context(engine: Engine) -> None:
    """Let all connections of a PyMySQL engine share the context of a TLS that verifies nothing.

    Without a setting PyMySQL 1.2 makes one at each connect, and reads all of the
    system's certificates for it: tens of milliseconds, in which no other
    thread of the process runs and the event loop stands still. A context for
    certificates that a setting names is made at each connect, since the files
    may have changed.

    Parameters
    ----------
    engine : Engine
    """
    from pymysql.connections import Connection

    shared: list[SSLContext] = []

    class SharingConnection(Connection):
        def _create_ssl_ctx(self, sslp: Any) -> SSLContext:
            if sslp:
                return self._own(sslp)
            if not shared:
                shared.append(self._own(sslp))
            return shared[0]

        def _own(self, sslp: Any) -> SSLContext:
            context: SSLContext = super()._create_ssl_ctx(sslp)  # type: ignore[misc]
            return context

    # Not in a listener of do_connect: those that come after it would not be called.
    engine.dialect.connect = SharingConnection  # type: ignore[method-assign, assignment]
