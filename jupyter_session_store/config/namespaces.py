"""The names of namespaces, as servers make them where no configuration names one."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final
from urllib.parse import quote

from ..errors import InvalidValue
from ..records import check_namespace

#: A user's and a server's name, each percent-encoded.
_HUB: Final = re.compile(r"hub:([^/]+)/([^/]*)")


def hub_prefix(user: str) -> str:
    """Return what the namespaces of a hub's user begin with, unless they are too long."""
    return f"hub:{_quoted(user)}/"


def hub_namespace(user: str, server: str = "") -> str:
    """Return the namespace of a user's server under JupyterHub; the default server has no name."""
    # Neither part holds a slash once it is quoted, so no two pairs collide.
    return storable(f"{hub_prefix(user)}{_quoted(server)}")


def hub_path(namespace: str) -> str | None:
    """Return the path at which a hub serves a namespace; ``None`` if it is no hub's, or hashed."""
    found = _HUB.fullmatch(namespace)
    return found and "/".join(("/user", *filter(None, found.groups()), ""))


def storable(name: str) -> str:
    """Return a name, or a digest of one that could not be a namespace."""
    fault = namespace_fault(name)
    if fault is None:
        return name
    whole = name.encode(errors="surrogateescape")
    return f"{name[:3]}-sha256:{hashlib.sha256(whole).hexdigest()}"


def namespace_fault(value: str) -> str | None:
    """Return what is wrong with a namespace; ``None`` if it is one."""
    try:
        check_namespace(value)
    except InvalidValue as error:
        return error.found
    return None


def _quoted(text: str) -> str:
    return quote(os.fsencode(text), safe="")
