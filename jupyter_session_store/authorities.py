"""What an authority over kernels is called: a server, over its own kernels, or a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

#: What the authority of local kernels begins with; the server's id follows.
SERVER_AUTHORITY: Final = "server:"
#: What the authority of a gateway begins with.
GATEWAY_AUTHORITY: Final = "gateway"

AuthorityKind = Literal["server", "gateway"]
#: What an authority of each kind begins with. Several servers use the kernels of all kinds but
#: ``server``.
AUTHORITIES: Final[Mapping[AuthorityKind, str]] = MappingProxyType(
    {"server": SERVER_AUTHORITY, "gateway": GATEWAY_AUTHORITY}
)


def authority_of(server_id: str) -> str:
    """Return the authority over the local kernels of a server."""
    return f"{SERVER_AUTHORITY}{server_id}"


def server_of(authority: str) -> str | None:
    """Return the id of the server that is an authority; ``None`` where that is no server."""
    if not authority.startswith(SERVER_AUTHORITY):
        return None
    return authority.removeprefix(SERVER_AUTHORITY)


def authority_kind(authority: str) -> AuthorityKind | None:
    """Return what an authority is; ``None`` where no server would have written it."""
    return next((kind for kind, text in AUTHORITIES.items() if authority.startswith(text)), None)
