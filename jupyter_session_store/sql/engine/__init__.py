"""From a URL to connections: one factory, and what differs between the databases."""

from __future__ import annotations

from .factory import create

__all__ = ["create"]
