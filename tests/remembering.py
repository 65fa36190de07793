"""What is looked up again and again, looked up once, or not at all, in a process of the tests.

Which plugins are installed, of which commit the server's own checkout is, and whether the
schemas of its events are ones: together a third of a server's start, and the same each time.
And whom the system trusts: a driver loads that for each connection, which takes ten times as
long as the connection, and nothing here asks a host that only the system would trust.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import json
import os
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

import jupyter_events.schema
import jupyter_server._sysinfo
import pytest

T = TypeVar("T")


@functools.cache
def remember() -> None:
    """Look up each of these once from now on: in this process, and in those forked from it."""
    distribution: Any = importlib.metadata.PathDistribution
    for name in ("entry_points", "_normalized_name"):
        setattr(distribution, name, _by_path(getattr(distribution, name).fget))
    commit: Any = jupyter_server._sysinfo
    commit.pkg_commit_hash = functools.cache(commit.pkg_commit_hash)
    schemas: Any = jupyter_events.schema
    schemas.validate_schema = _once(schemas.validate_schema)
    context: Any = ssl.SSLContext
    context.load_default_certs = _if_chosen(context.load_default_certs)


def _if_chosen(load: Callable[..., None]) -> Callable[..., None]:
    """Return what loads the certificates that a test has chosen, and not the system's.

    Nor those of a user who has chosen some for all programs.
    """
    outside = os.environ.get("SSL_CERT_FILE")

    def load_chosen(context: ssl.SSLContext, *purpose: Any) -> None:
        if os.environ.get("SSL_CERT_FILE") not in (None, "", outside):
            load(context, *purpose)

    return load_chosen


def _by_path(look_up: Callable[[Any], T]) -> property:
    """Return a property of an installed distribution that is looked up once for each."""
    found: dict[str, T] = {}

    def get(distribution: Any) -> T:
        path = str(distribution._path)
        if path not in found:
            found[path] = look_up(distribution)
        return found[path]

    return property(get)


def _once(validate: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Return what validates a schema, unless an equal one has been valid."""
    valid: set[str] = set()

    def validate_once(schema: dict[str, Any]) -> None:
        text = json.dumps(schema, default=repr)
        if text not in valid:
            validate(schema)
            valid.add(text)

    return validate_once


def pytest_configure() -> None:
    remember()
    # All that is collected stays: to look through it for garbage is in vain, here and below.
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
