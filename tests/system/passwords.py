"""Passwords, as they might slip into a log."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, quote_plus, unquote, urlsplit

from ..databases import Database

#: It breaks a URL wherever it is not quoted exactly once.
PASSWORD: Final = "%40@:/?#%s3cr3t&=+;"


def with_password(database: Database, password: str) -> str:
    """Return the URL of a database with another password."""
    parts = urlsplit(database.url)
    _, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{parts.username}:{quote(password, safe='')}{at}{host}").geturl()


def without_password(database: Database) -> str:
    """Return the URL of a database without its password."""
    parts = urlsplit(database.url)
    if parts.password is None:
        return database.url
    _, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{parts.username}{at}{host}").geturl()


def password_of(database: Database) -> str:
    """Return the password of a URL, as the server wants it."""
    return unquote(urlsplit(database.url).password or "")


def forms_of(password: str) -> set[str]:
    """Return what a password may look like in a text, whole or in a piece that tells it."""
    forms = {password, quote(password), quote(password, safe=""), quote_plus(password)}
    return forms | {repr(form)[1:-1] for form in forms}


def leaked(password: str, text: str) -> set[str]:
    """Return the forms of a password that a text holds."""
    return {form for form in forms_of(password) if form in text}
