"""The name of a gateway, and of its authority."""

from __future__ import annotations

import re
import socket
from typing import Final
from urllib.parse import urlsplit

from ...errors import ConfigurationError
from ...paths import digest
from ...records import LIMITS

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOOPBACK: Final = re.compile(r"^(localhost|.*\.localhost|127\.[\d.]+|::1|0\.0\.0\.0|::)$")


def gateway_name_of(url: str) -> str:
    """Return the name of a gateway: its normalised URL without credentials.

    A loopback address and a Unix socket mean another gateway on each host, and
    are completed by the host's name. Raises :class:`.ConfigurationError`, which
    repeats nothing, for what is no URL: what is before its host may be a password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        given_port = parts.port
        # A password that holds a slash or the like ends up behind the host, and the host with it.
        behind = parts.path + parts.query + parts.fragment
        if url and (not re.fullmatch(r"[\w.:%-]+", parts.hostname or "") or "@" in behind):
            raise ValueError
    except ValueError:
        raise ConfigurationError(
            "c.GatewayClient.url is no URL that can be read; expected "
            "http://host:port/prefix, with every special character of a user and a password "
            "before the host percent-encoded (urllib.parse.quote(password, safe=''))."
        ) from None
    scheme = parts.scheme.lower()
    path = parts.path.rstrip("/")
    host = (parts.hostname or "").lower()
    if scheme.endswith("+unix"):
        return f"{scheme}://{host}{path}@{socket.gethostname()}"
    port = given_port or _DEFAULT_PORTS.get(scheme)
    shown = f"[{host}]" if ":" in host else host
    name = f"{scheme}://{shown}:{port}{path}"
    return f"{name}@{socket.gethostname()}" if _LOOPBACK.match(host) else name


def check_gateway_name(name: str) -> None:
    """Check a name that was configured; raises :class:`.ConfigurationError`, which repeats nothing.

    It is stored with each session, and shown.
    """
    fault = None
    if not name or name != name.strip():
        fault = "is empty, or has white space at its edges"
    elif not name.isprintable():
        fault = "holds a control character"
    elif re.match(r"[^/@]*:[^/@]*@", name) or ("://" in name and _holds_credentials(name)):
        fault = "holds a user or a password"
    if fault is not None:
        raise ConfigurationError(
            f"c.PersistentSessionManager.gateway_name {fault}; expected a name of the gateway "
            "that is equal on every server, without credentials."
        )


def _holds_credentials(name: str) -> bool:
    host = name.partition("://")[2].partition("/")[0]
    if "@" not in host:
        return False
    # The name of a gateway on a loopback address is its URL, an @ and a host name.
    url = name.rpartition("@")[0]
    try:
        return gateway_name_of(url).rpartition("@")[0] != url
    except ConfigurationError:
        return True


def gateway_authority_of(gateway_name: str) -> str:
    """Return the authority over the kernels of a gateway."""
    authority = f"gateway:{gateway_name}"
    if len(authority) > LIMITS["authority"]:
        return f"gateway-sha256:{digest(gateway_name)}"
    return authority
