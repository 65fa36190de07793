"""What the conformance suite stores: records, scopes, and texts that databases choke on."""

from __future__ import annotations

import asyncio
import functools
import inspect
import unicodedata
from collections.abc import Callable, Coroutine
from datetime import datetime, timezone
from typing import Any, Final, TypeVar

from ..paths import claim_of
from ..records import READY, Scope, ServerRecord, SessionRecord
from ..repository import SessionRepository

T = TypeVar("T")

SCOPE: Final = Scope("bob", "server:one")
#: Each differs from :data:`SCOPE` by what a sloppy comparison overlooks.
OTHER_SCOPES: Final = (
    Scope("bob", "server:two"),
    Scope("Bob", "server:one"),
    Scope("bob ", "server:one"),
    Scope(" bob", "server:one"),
    Scope("b\u00f6b", "server:one"),
    Scope("bob", "Server:one"),
    Scope("bob", "server:one "),
)

#: Texts that databases are known to change, to merge or to choke on.
AWKWARD: Final = (
    "",
    " ",
    "a.ipynb",
    "A.ipynb",
    "a.ipynb ",
    " a.ipynb",
    "\ta.ipynb\n",
    "caf\u00e9.ipynb",
    "cafe.ipynb",
    unicodedata.normalize("NFD", "caf\u00e9.ipynb"),
    "stra\u00dfe",
    "strasse",
    "\u0130stanbul",
    "istanbul",
    "\U0001f4d3\U0001f469\u200d\U0001f52c.ipynb",
    "\U0001f4d3.ipynb",
    "\ufffe\uffff",
    "\u202eltr",
    "100%_'\"`\\;--",
    "%s %(x)s :name ?",
    "$1 {x} \\N \\x00",
    "nul\\0",
)

NOW: Final = datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=timezone.utc)


def record(session_id: str, scope: Scope = SCOPE, **values: Any) -> SessionRecord:
    """Return a session to store, with a claim to its path unless `values` says otherwise."""
    path = values.pop("path", f"{session_id}.ipynb")
    fields: dict[str, Any] = {
        "namespace": scope.namespace,
        "authority": scope.authority,
        "session_id": session_id,
        "path": path,
        "name": None,
        "type": "notebook",
        "kernel_id": f"kernel of {session_id}",
        "kernel_name": "python3",
        "kernel_model": '{"id": "k"}',
        "server_id": "one",
        "state": READY,
        "claim": None if path is None else claim_of(scope, path),
        "created_at": NOW,
        "updated_at": NOW,
    }
    return SessionRecord(**{**fields, **values})


def server(server_id: str, namespace: str = SCOPE.namespace, **values: Any) -> ServerRecord:
    """Return a server to register."""
    fields: dict[str, Any] = {
        "namespace": namespace,
        "server_id": server_id,
        "hostname": "host",
        "pid": 1234,
        "version": "1",
        "started_at": NOW,
        "renewals": 0,
        "lease_seconds": 90,
    }
    return ServerRecord(**{**fields, **values})


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own."""
    return asyncio.run(coroutine)


def in_event_loops(contract: type[T]) -> type[T]:
    """Have each coroutine of a contract run in an event loop of its own, without a plugin."""

    def plain(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def runs(*args: Any, **kwargs: Any) -> None:
            run(test(*args, **kwargs))

        return runs

    for name, test in list(vars(contract).items()):
        if inspect.iscoroutinefunction(test):
            setattr(contract, name, plain(test))
    return contract


async def add(repository: SessionRepository, *records: SessionRecord) -> None:
    """Add sessions, one after another."""
    for each in records:
        await repository.add(each)


def there(result: T | None) -> T:
    """Return what a verb found, which must be there."""
    assert result is not None
    return result
