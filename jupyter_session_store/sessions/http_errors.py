"""Domain errors as the manager raises them: tornado knows, in any handler, what to answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, cast

from tornado import web

from ..errors import (
    InvalidValue,
    PathClaimed,
    SchemaMismatch,
    SessionConflict,
    SessionStoreError,
    StoreUnavailable,
)

P = ParamSpec("P")
T = TypeVar("T")

_STATUS: Final = {
    InvalidValue: 400,
    SessionConflict: 409,
    PathClaimed: 409,
    StoreUnavailable: 503,
    SchemaMismatch: 503,
}
#: Seconds, where the schema has to change first.
_SCHEMA_RETRY: Final = 60
#: What a client is told of a fault that only an operator can do something about.
_UNAVAILABLE: Final = "The session store is unavailable; the server's log says why."


class HTTPStoreError(web.HTTPError):
    """What each error of :func:`as_http` is, beside the domain error that it was made of.

    Its text is the one for clients. The error that it was made of is its cause.
    """

    def __init__(self, error: SessionStoreError) -> None:
        vars(self).update(vars(error))
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        self.text = public_text(error)
        # The attribute `reason` becomes HTTP's: it goes into the first line of the answer.
        super().__init__(status, self.text)
        #: Seconds after which a client may try again; ``None`` if that would not help.
        self.retry_after: int | None = None
        #: Whether only an answer tells of it: the store logs itself that it has gone.
        self.is_public = getattr(error, "is_public", False)
        if status == 503:
            self.retry_after = getattr(error, "retry_after", _SCHEMA_RETRY)

    def __str__(self) -> str:
        return self.text


def public_text(error: SessionStoreError) -> str:
    """Return what a client may be told: nothing of the database, nor of its driver."""
    if isinstance(error, SchemaMismatch):
        return _UNAVAILABLE
    if isinstance(error, StoreUnavailable) and not error.is_public:
        return _UNAVAILABLE
    return str(error)


@functools.cache
def _both(kind: Any) -> Any:
    """Return a subclass of a kind of domain error and of the other."""
    return type(kind.__name__, (HTTPStoreError, kind), {"__doc__": kind.__doc__})


def as_http(error: SessionStoreError) -> HTTPStoreError:
    """Return a domain error as one that is the same and an :class:`tornado.web.HTTPError`."""
    if isinstance(error, HTTPStoreError):
        return error
    kind: Any = type(error)
    return cast("HTTPStoreError", _both(kind)(error))


@contextmanager
def http_errors() -> Iterator[None]:
    """Raise domain errors as :func:`as_http` makes them."""
    try:
        yield
    except HTTPStoreError:
        raise
    except SessionStoreError as error:
        raise as_http(error) from error


def raises_http(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a method of the manager that raises domain errors as :func:`as_http` makes them."""

    @functools.wraps(method)
    async def raising(*args: P.args, **kwargs: P.kwargs) -> T:
        # Not `with http_errors()`, which costs as much as a read of a local session.
        try:
            return await method(*args, **kwargs)
        except HTTPStoreError:
            raise
        except SessionStoreError as error:
            raise as_http(error) from error

    return raising
