"""When two paths are the same, and what follows from it: how one is looked up and claimed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .records import Scope


def path_key(path: str) -> str:
    """Return what two paths have in common if, and only if, they are the same path.

    This alone says when they are: if every code point is equal. Digests and claims are stored,
    so another rule needs a revision that makes them anew.
    """
    return path


def path_digest(path: str | None) -> str | None:
    """Return the digest of a path's key, under which the path is looked up; `None` of no path."""
    return None if path is None else digest(path_key(path))


def digest(*parts: str) -> str:
    """Return the SHA-256 of `parts`, in hexadecimal.

    The parts are joined by NUL, which no part contains: no two lists collide.
    """
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def claim_of(scope: Scope, path: str | None) -> str | None:
    """Return the claim to a path, unique in a namespace under one authority; `None` of no path."""
    return None if path is None else digest(scope.authority, path_key(path))
