"""How a request to a gateway failed: what that says of the request, and of the kernel."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from tornado import web

#: What a proxy answers for a gateway that did not answer it; 599 is tornado's, for no answer.
UNANSWERED: Final = frozenset({502, 503, 504, 599})


def no_answer() -> web.HTTPError:
    """Return the error of a gateway that did not answer, or for which another did."""
    return web.HTTPError(
        503,
        "The gateway cannot be asked for its kernels now. Expected it to answer at "
        "c.GatewayClient.url; nothing was changed.",
    )


def may_have_arrived(error: BaseException) -> bool:
    """Return whether a request to a gateway that failed with `error` may have reached it."""
    return not isinstance(error.__cause__, (ConnectionRefusedError, socket.gaierror))


def is_over(error: BaseException) -> bool:
    """Return whether a request to a gateway that failed with `error` is not going on there.

    It was answered, or has not reached the gateway. After a time-out, be it a
    proxy's, or on a connection that broke, the gateway may still be starting
    a kernel.
    """
    if not may_have_arrived(error):
        return True
    if isinstance(error, web.HTTPError):
        broken = isinstance(error.__cause__, ConnectionError)
        return not broken and error.status_code not in UNANSWERED
    return not isinstance(error, (OSError, asyncio.CancelledError, asyncio.TimeoutError))
