"""The name of a gateway, and of its authority."""

from __future__ import annotations

import re
import socket
from typing import Final
from urllib.parse import urlsplit

from ...records import LIMITS, digest

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOOPBACK: Final = re.compile(r"^(localhost|.*\.localhost|127\.[\d.]+|::1|0\.0\.0\.0|::)$")


def gateway_name_of(url: str) -> str:
    """Return the name of a gateway: its normalised URL without credentials.

    A loopback address and a Unix socket mean another gateway on each host, and
    are completed by the host's name.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = parts.scheme.lower()
    path = parts.path.rstrip("/")
    host = (parts.hostname or "").lower()
    if scheme.endswith("+unix"):
        return f"{scheme}://{host}{path}@{socket.gethostname()}"
    port = parts.port or _DEFAULT_PORTS.get(scheme)
    shown = f"[{host}]" if ":" in host else host
    name = f"{scheme}://{shown}:{port}{path}"
    return f"{name}@{socket.gethostname()}" if _LOOPBACK.match(host) else name


def gateway_authority_of(gateway_name: str) -> str:
    """Return the authority over the kernels of a gateway."""
    authority = f"gateway:{gateway_name}"
    if len(authority) > LIMITS["authority"]:
        return f"gateway-sha256:{digest(gateway_name)}"
    return authority
