"""What an authority over kernels is called: a server, over its own kernels, or a gateway."""

from __future__ import annotations

from typing import Final, Literal

#: What the authority of local kernels begins with; the server's id follows.
SERVER_AUTHORITY: Final = "server:"
#: What the authority of a gateway begins with.
GATEWAY_AUTHORITY: Final = "gateway"


def authority_of(server_id: str) -> str:
    """Return the authority over the local kernels of a server."""
    return f"{SERVER_AUTHORITY}{server_id}"


def server_of(authority: str) -> str | None:
    """Return the id of the server that is an authority; ``None`` where that is no server."""
    if not authority.startswith(SERVER_AUTHORITY):
        return None
    return authority.removeprefix(SERVER_AUTHORITY)


def authority_kind(authority: str) -> Literal["server", "gateway"] | None:
    """Return what an authority is; ``None`` where no server would have written it."""
    if server_of(authority) is not None:
        return "server"
    return "gateway" if authority.startswith(GATEWAY_AUTHORITY) else None
