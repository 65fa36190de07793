"""What a user types for a database, and what may be shown of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from ...errors import ConfigurationError
from ...locations import TRAIT, URL_FORM, Kind, clean, holds_credentials, kind_of
from . import places
from .backend import backend_of

#: Parameters that :func:`describe` shows. One without its ampersand holds the next one, too.
_SHOWN: Final = ("user", "host", "hostaddr", "port", "unix_socket", "service")
_URL_WITH_CREDENTIALS: Final = re.compile(r"\b[\w+.-]+://[^\s/@]*@\S*")


def parse(text: str) -> URL:
    """Turn a path, ``:memory:`` or a URL into a URL that names its driver.

    What cannot be parsed is not repeated in the error: it may hold a password.
    """
    text = clean(text)
    kind = kind_of(text)
    if kind is Kind.MEMORY:
        return URL.create("sqlite")
    if kind is Kind.PATH:
        return URL.create("sqlite", database=text)
    rest, hosts = places.split(text)
    try:
        url = make_url(rest)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"{TRAIT} is not a database URL; expected {URL_FORM}.") from None
    if backend_of(url).is_embedded:
        database = url.database or ""
        place = url.host or url.port or hosts
        if place or url.username or url.password or holds_credentials(database):
            raise ConfigurationError(
                f"{TRAIT} is the URL of a file, and names a host or a user too; expected "
                "sqlite:///relative/path or sqlite:////absolute/path."
            )
    else:
        # Of a user: some services have it end in "@host".
        for place, value, wrong in (
            ("host", url.host, "@="),
            ("user", url.username, "="),
            ("database", url.database, "@=:"),
            *((name, url.query.get(name), "=") for name in _SHOWN),
        ):
            if any(one in str(value or "") for one in wrong):
                raise ConfigurationError(
                    f"{TRAIT} holds a special character in the name of the {place}: a part of "
                    f"the URL is missing, or in a wrong place. Expected {URL_FORM}."
                )
    if "+" not in url.drivername:
        url = url.set(drivername=backend_of(url).drivername or url.drivername)
    url = backend_of(url).normalise(url)
    return url if backend_of(url).is_embedded else places.joined(url, hosts)


def is_memory(url: URL) -> bool:
    """Return whether the database lives in this process's memory alone."""
    return backend_of(url).is_memory(url)


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite URL, or ``None`` (in memory, a ``file:`` URI, a server)."""
    return backend_of(url).file(url)


def describe(url: URL) -> str:
    """Return the name of a database for texts, without a password, a parameter or a whole URL.

    Such as ``postgresql jupyter@db:5432/jupyter`` (role, host, port and name) or
    ``sqlite /path/to/file.db``.
    """
    shown = backend_of(url).describe(url)
    # A line end in a name would make two lines of one in a log.
    return "".join(one if one.isprintable() else "?" for one in shown)


def passwords_of(url: URL) -> list[str]:
    """Return the passwords that a URL holds, in their place or among its parameters."""
    found = [] if url.password is None else [str(url.password)]
    for name, value in url.query.items():
        if "pass" in name.lower():
            found += [value] if isinstance(value, str) else value
    return [password for password in found if password]


def redact(text: str, url: URL) -> str:
    """Return a driver's message without a password and without a whole URL."""
    for password in passwords_of(url):
        text = text.replace(password, "***")
    return _URL_WITH_CREDENTIALS.sub("(URL)", text)


def reason_of(error: SQLAlchemyError, url: URL) -> str:
    """Return what may be shown of an error: the first line of the driver's own text."""
    text = str(error)
    if isinstance(error, DBAPIError) and error.orig is not None:
        lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        text = lines[0]
    return redact(text, url)
