"""Whether a text names a file or a database by its URL: the one place that decides it.

A text that is neither is refused and never repeated: people paste what other
programs take, passwords included. Nothing is imported here that takes long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl

from .errors import ConfigurationError

TRAIT: Final = "c.SessionManager.database_filepath"
#: What a user types for a database without a file.
MEMORY: Final = ":memory:"
#: How a URL is written.
URL_FORM: Final = (
    "dialect://user:password@host:port/database, with every special character of the user and "
    "the password percent-encoded (urllib.parse.quote(password, safe=''))"
)

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
#: So begins what is a path for certain. ``//`` is what is left of a URL.
_PATH: Final = re.compile(r"/(?!/)|\.{1,2}/|[A-Za-z]:[\\/]")
#: What a bare name may not hold: each other way to write a database holds some of it.
_NOT_IN_NAMES: Final = re.compile(r"[:=@;?&|<>{}\[\]'\"`$]|//|(?:^|\s)-")
#: What even a path may not hold: credentials, as far as they can be told.
_CREDENTIALS: Final = re.compile(r":.*@|[\s;&?](?:pass(?:word|wd)?|pwd|secret|user)\s*[=:]", re.I)
_DRIVE: Final = re.compile(r"[A-Za-z]:(?=[\\/])")
#: As SQLAlchemy reads a URL: only the "@" of a password has to be encoded.
_USER_AND_PASSWORD: Final = re.compile(r"[^:/]*://[^:/]*:[^@]*@")
#: Credentials in a text that holds more; the form of a URL, which is told, has none.
_IN_TEXT: Final = re.compile(
    r"(?P<before>://)(?!user:password@)[^\s'\"]*(?P<after>@)"
    r"|(?P<name>\b(?:pass(?:word|wd)?|pwd)\s*=\s*)(?:'[^']*'|[^\s;&'\"]+)",
    re.I,
)

#: Other programs' ways to name a database, and how each is written here.
_FOREIGN: Final = (
    (re.compile(r"\s*jdbc:", re.I), "a JDBC URL: leave out 'jdbc:', and put user:password@ before"),
    (re.compile(r"\w+\s*=[^;]*;", re.S), "an ADO connection string"),
    (re.compile(r".*@(?:tcp|unix)\(", re.S), "a data source name of Go"),
    (re.compile(r"\s*\{"), "a dictionary of settings, as Django has them"),
    (re.compile(r"(?:.*\s)?\w+\s*=", re.S), "a connection string of libpq"),
    (re.compile(r"(?:.*\s)?-\w", re.S), "arguments of a command"),
    (re.compile(r"\w+(?:\+\w+)?(?::/?(?!/)|//)"), "a URL without its '://'"),
)


@contextmanager
def named(source: str) -> Iterator[None]:
    """Have errors about a URL name where it was typed, which is not always the setting."""
    try:
        yield
    except ConfigurationError as error:
        error.args = (str(error).replace(TRAIT, source),)
        raise


class Kind(Enum):
    """What a text names."""

    MEMORY = "a database in memory"
    PATH = "the path of a SQLite file"
    URL = "a database URL"


def clean(text: str) -> str:
    """Return a text without the line end that files of secrets have."""
    return text.strip() if "://" in text else text.rstrip("\r\n")


def kind_of(text: str) -> Kind:
    """Return what a text names, after :func:`clean`.

    Raises
    ------
    ConfigurationError
        If it names nothing, or may be another program's way to name a database.
    """
    if not text or text.isspace():
        raise ConfigurationError(
            f"{TRAIT} is empty; expected a file path, ':memory:' or a database URL. Remove the "
            "setting to use the default."
        )
    if text == MEMORY:
        return Kind.MEMORY
    if _CONTROL.search(text):
        raise ConfigurationError(
            f"{TRAIT} holds a line end or another control character; expected a file path, "
            "':memory:' or a database URL on one line."
        )
    if "://" in text and not text.lower().startswith("jdbc:"):
        return Kind.URL
    if holds_credentials(text) if _PATH.match(text) else _NOT_IN_NAMES.search(text):
        looks = next((f", but looks like {what}" for how, what in _FOREIGN if how.match(text)), "")
        raise ConfigurationError(
            f"{TRAIT} is neither a database URL nor a plain file path{looks}. Expected "
            f"{URL_FORM}; or a path: begin one that holds special characters with './' or '/'."
        )
    return Kind.PATH


def holds_credentials(path: str) -> bool:
    """Return whether a path may be what is left of a URL, or another program's way to name one."""
    return _CREDENTIALS.search(_DRIVE.sub("", path, count=1)) is not None


def holds_password(text: str) -> bool:
    """Return whether a URL holds a password, before its host or in its parameters."""
    if _USER_AND_PASSWORD.match(text):
        return True
    names = [name.lower() for name, _ in parse_qsl(text.partition("?")[2])]
    return "://" in text and any("pass" in name and name != "passfile" for name in names)


def without_credentials(text: str) -> str:
    """Return a text that may repeat what was given in a wrong place, without its credentials."""
    return _IN_TEXT.sub(r"\g<before>\g<name>(not shown)\g<after>", text)
