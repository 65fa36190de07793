"""The hosts and ports of a URL: each spelling that is understood becomes one and the same.

A URL names one host before its database, or several as libpq and SQLAlchemy write them. Those
become two parameters with commas, ``host`` and ``port``, which is what libpq itself knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy.engine import URL

from ...errors import ConfigurationError
from ...locations import TRAIT
from .backend import backend_of, fault_of_port

#: PostgreSQL's.
USUAL_PORT: Final = "5432"
#: How several hosts are written.
SEVERAL_FORM: Final = (
    "postgresql://USER@A:5432,B:5432/DATABASE?target_session_attrs=read-write, each host with its "
    "port"
)
#: What takes the place of several hosts where a driver connects to one.
_ONE_FORM: Final = (
    "one host: a name in DNS or an address that moves with the primary, or a proxy that follows "
    "it (HAProxy, ProxySQL, MaxScale)"
)

#: The user and the password of a URL as SQLAlchemy reads them, and what follows until its database.
#: What has once been read as a password, with a comma in it, is not taken for hosts.
_AUTHORITY: Final = re.compile(
    r"(?=(?P<before>[\w+.-]+://(?:[^:/]*(?::[^@]*)?@)?))(?P=before)"
    r"(?P<hosts>[^/?]*,[^/?]*)(?P<after>.*)",
    re.S,
)
_PLACE: Final = re.compile(r"(?:\[(?P<ipv6>[^][]+)\]|(?P<name>[^][:@=]+))(?::(?P<port>\d*))?")


class Place(NamedTuple):
    """A host, which may be the folder of a socket, its port and its address, as far as given."""

    host: str
    port: str = ""
    address: str = ""

    def parameters(self) -> dict[str, str]:
        """Return what libpq is told of it."""
        parameters = {"host": self.host, "port": self.port, "hostaddr": self.address}
        return {name: value for name, value in parameters.items() if value}

    def __str__(self) -> str:
        host = self.host or self.address
        host = f"[{host}]" if ":" in host or "/" in host else host
        shown = f"{host}:{self.port}" if self.port else host
        return shown if self.address in ("", self.host, host) else f"{shown} ({self.address})"


def split(text: str) -> tuple[str, list[Place]]:
    """Return a URL without the hosts before its database, if they are several, and these."""
    found = _AUTHORITY.match(text)
    if found is None:
        return text, []
    places = [_place(one) for one in found["hosts"].split(",")]
    return found["before"] + found["after"], places


def joined(url: URL, before: Sequence[Place]) -> URL:
    """Return a URL with its hosts in the one form; `before` are those that :func:`split` found."""
    backend = backend_of(url)
    driver = backend.driver
    form = SEVERAL_FORM if driver.takes_several_hosts else _ONE_FORM
    if driver.takes_several_hosts is None:
        # As SQLAlchemy knows them, for who takes several.
        return url.update_query_dict({"host": [str(one) for one in before]}) if before else url
    own = [] if url.port is None else [_checked_port(str(url.port))]
    ports = list(map(_checked_port, _values(url.query, "port")))
    variable = backend.variables.get("port", "")
    usual = os.environ.get(variable) or str(backend.port)
    if before:
        *others, last = before
        if last.port not in ("", usual) and not any(one.port for one in others):
            # libpq reads it as that of the last host, and SQLAlchemy as that of all.
            raise ConfigurationError(f"{TRAIT} names several hosts and one port; expected {form}.")
    given = [_of_parameter(one) for one in _values(url.query, "host")]
    if given and (before or url.host):
        if before or not given[0].host.startswith("/"):
            raise ConfigurationError(
                f"{TRAIT} names hosts in two places, before the database and as a parameter; "
                f"expected {form}."
            )
        # A socket wins, as for libpq.
        url = url._replace(host=None)
    places = _numbered(list(before) or given or [Place(url.host or "")], ports, own)
    if not before and not given and not (ports and url.host):
        return url
    if len(places) > 1 and not driver.takes_several_hosts:
        raise ConfigurationError(
            f"{TRAIT} names several hosts, and the driver {driver.name} connects to one; expected "
            f"{_ONE_FORM}."
        )
    url = url._replace(port=None).difference_update_query(["host", "port"])
    if len(places) == 1 and "/" not in places[0].host:
        host, port, _ = places[0]
        return url._replace(host=host, port=int(port) if port else None)
    parameters = {"host": ",".join(one.host for one in places)}
    if any(one.port for one in places):
        if not all(one.port for one in places) and (expected := fault_of_port(usual)):
            raise ConfigurationError(
                f"The environment variable {variable} cannot be used for the hosts in {TRAIT} that "
                f"have no port; expected {expected}."
            )
        parameters["port"] = ",".join(one.port or usual for one in places)
    return url.update_query_dict(parameters)


def _place(text: str) -> Place:
    found = _PLACE.fullmatch(text.strip())
    if found is None:
        raise ConfigurationError(
            f"{TRAIT} has a list of hosts that cannot be read: a part of the URL is missing, in a "
            f"wrong place or not percent-encoded. Expected {SEVERAL_FORM}."
        )
    return Place(found["ipv6"] or found["name"], _checked_port(found["port"] or ""))


def _checked_port(port: str) -> str:
    if port and (expected := fault_of_port(port)):
        raise ConfigurationError(f"The port in {TRAIT} cannot be used; expected {expected}.")
    return port.strip()


def _of_parameter(host: str) -> Place:
    """Return one of the hosts that are parameters, ``host=A:1&host=B:2`` or ``host=A,B``."""
    return Place(host) if _has_no_port(host) else _place(host)


def _numbered(places: list[Place], ports: list[str], own: list[str]) -> list[Place]:
    """Return hosts with their ports: those of parameters, or the URL's own, one each or for all."""
    if own and ports:
        raise _not_together()
    numbers = ports or own
    if not numbers:
        return places
    if len(numbers) not in (1, len(places)) or any(one.port for one in places):
        raise _not_together()
    numbers = numbers * len(places) if len(numbers) == 1 else numbers
    return [Place(one.host, port) for one, port in zip(places, numbers, strict=True)]


def _not_together() -> ConfigurationError:
    return ConfigurationError(
        f"{TRAIT} has hosts and ports that do not belong together; expected each port once, beside "
        "its host: ...//USER@A:PORT/DATABASE, or ...//USER@A:PORT,B:PORT/DATABASE."
    )


def _has_no_port(host: str) -> bool:
    """Return whether a host is a socket, or an address of IPv6 without brackets."""
    return "/" in host or host.startswith("@") or (host.count(":") > 1 and "[" not in host)


def _values(query: Mapping[str, str | Sequence[str]], name: str) -> list[str]:
    found = query.get(name, ())
    values = [found] if isinstance(found, str) else found
    return [one for value in values for one in value.split(",")] if any(values) else []
