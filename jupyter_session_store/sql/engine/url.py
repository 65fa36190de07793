"""What a user types for a database, and what may be shown of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from ...errors import ConfigurationError
from .backend import backend_of
from .sqlite_files import MEMORY

TRAIT: Final = "c.SessionManager.database_filepath"

_URL_WITHOUT_COLON: Final = re.compile(r"^\w*//.*@")
_URL_WITH_CREDENTIALS: Final = re.compile(r"\b[\w+.-]+://[^\s/@]*@\S*")


def parse(text: str) -> URL:
    """Turn a path, ``:memory:`` or a URL into a URL that names its driver.

    What cannot be parsed is not repeated in the error: it may hold a password.
    """
    if not text:
        raise ConfigurationError(
            f"{TRAIT} is empty; expected a file path, ':memory:' or a database URL. Remove the "
            "setting to use the default."
        )
    if text == MEMORY:
        return URL.create("sqlite")
    if "://" not in text and not _URL_WITHOUT_COLON.search(text):
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{TRAIT} is not a database URL; expected "
            "dialect://user:password@host:port/database, with every special "
            "character of the user and the password percent-encoded "
            "(urllib.parse.quote(password, safe=''))."
        ) from None
    if "@" in (url.host or "") or "@" in (url.database or "").partition("?")[0]:
        raise ConfigurationError(
            f"{TRAIT} holds an '@' in its host or database name; the password "
            "probably holds special characters that are not percent-encoded. "
            "Encode it with urllib.parse.quote(password, safe='')."
        )
    if "+" in url.drivername:
        return url
    return url.set(drivername=backend_of(url).drivername or url.drivername)


def is_memory(url: URL) -> bool:
    """Return whether the database lives in this process's memory alone."""
    return backend_of(url).is_memory(url)


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite URL, or ``None`` (in memory, a ``file:`` URI, a server)."""
    return backend_of(url).file(url)


def describe(url: URL) -> str:
    """Return what may be shown of a URL: the backend and the host, or the file's name."""
    return backend_of(url).describe(url)


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
