"""Answers while the store is away, of any handler: when to come back, and a log that is quiet.

The store says once that it has gone, and once that it is back. Jupyter Server
would log each request besides, as an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tornado import httputil, web
from tornado.log import access_log

from ..sessions.http_errors import HTTPStoreError


def fault_of(error: BaseException | None) -> HTTPStoreError | None:
    """Return an error if it says that the store, or a gateway, cannot be asked now."""
    if isinstance(error, HTTPStoreError) and error.retry_after is not None:
        return error
    return None


def current_fault() -> HTTPStoreError | None:
    """Return the fault for which an answer is being written.

    Tornado writes it while it handles the error, and finds the error in this way itself.
    """
    return fault_of(sys.exc_info()[1])


class RetryAfter(web.OutputTransform):
    """Says with each 503 of the store, whichever handler's it is, when to come back."""

    def transform_first_chunk(
        self, status_code: int, headers: httputil.HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, httputil.HTTPHeaders, bytes]:
        """Add the header."""
        fault = current_fault()
        if fault is not None and fault.status_code == status_code:
            headers["Retry-After"] = str(fault.retry_after)
        return status_code, headers, chunk


class _LoggedLower:
    """A handler as the function that logs its requests sees it: each line has one level."""

    def __init__(self, handler: Any, log: Callable[..., None]) -> None:
        self._handler = handler
        self.log = SimpleNamespace(debug=log, info=log, warning=log, error=log)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)


def quieted(log_request: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a function that logs requests as another does, but for those of a store that is away.

    Nobody else says that a gateway is away, or that a wait was too long: these are warnings.
    """

    def log(handler: Any) -> None:
        fault = current_fault()
        if fault is None:
            log_request(handler)
            return
        # A handler of tornado's own has no log.
        logger = getattr(handler, "log", access_log)
        level = logger.warning if fault.is_public else logger.debug
        # The metrics of requests have the name of the handler's class.
        kind, names = type(handler), {"__module__": type(handler).__module__}
        log_request(type(kind.__name__, (_LoggedLower,), names)(handler, level))

    return log


def prepare(web_app: web.Application) -> None:
    """Have an application answer, and log, all faults of the store in this way."""
    web_app.add_transform(RetryAfter)
    log_request = web_app.settings.get("log_function")
    if log_request is not None:
        web_app.settings["log_function"] = quieted(log_request)
