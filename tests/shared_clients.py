"""HTTP clients that threads share.

httpcore (1.0.9) looks at the state of a connection, and then at its socket. On a busy machine
another thread takes the connection in between, and has its answer on the socket: that one then
looks as if the server had closed it, and is closed under the other thread, whose request fails
with "Bad file descriptor". The lock that guards the state is held for both looks here.
"""

from __future__ import annotations

from httpcore._sync.http11 import HTTP11Connection

_has_expired = HTTP11Connection.has_expired


def _has_expired_at_once(connection: HTTP11Connection) -> bool:
    with connection._state_lock:
        return _has_expired(connection)


def mend() -> None:
    """Have all clients of this process do so; may be called again."""
    HTTP11Connection.has_expired = _has_expired_at_once  # type: ignore[assignment]
