"""What an examination finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ...errors import StoreUnavailable
from ..engine.url import reason_of, redact


class Verdict(Enum):
    """The result of an examination."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    #: It could not be examined.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """What was found of one thing and, if it is not well, what was expected; no password.

    The cure is the commands, the statements or the settings that mend it, in order, if they are
    known.
    """

    name: str
    verdict: Verdict
    text: str
    cure: tuple[str, ...] = ()


#: A finding without its name.
Outcome: TypeAlias = tuple[Verdict, str, tuple[str, ...]]


@dataclass(frozen=True)
class Examinations:
    """What is examined on one kind of database, by name and in order.

    What is examined of the server does not need the tables; the file is looked at before it is
    opened. `may_change_schema` is asked for the role's rights, and may not know, `elsewhere` for
    tables that the role does not find, and `hosts` for several hosts of one URL.
    """

    server: Mapping[str, Callable[[Connection], Outcome]]
    file: Mapping[str, Callable[[Path], Outcome]] = field(default_factory=dict)
    tables: Mapping[str, Callable[[Connection], Outcome]] = field(default_factory=dict)
    may_change_schema: Callable[[Connection], bool | None] | None = None
    elsewhere: Callable[[Connection], Outcome | None] | None = None
    hosts: Callable[[Engine], Outcome | None] | None = None


def ok(text: str) -> Outcome:
    """Return that all is well."""
    return (Verdict.OK, text, ())


def warning(text: str, *cure: str) -> Outcome:
    """Return that it works, but not for all or not for ever."""
    return (Verdict.WARNING, text, cure)


def failed(text: str, *cure: str) -> Outcome:
    """Return that servers cannot work so."""
    return (Verdict.FAILED, text, cure)


def unknown(text: str, *cure: str) -> Outcome:
    """Return that it could not be examined."""
    return (Verdict.UNKNOWN, text, cure)


def reason(error: Exception, url: URL) -> str:
    """Return what may be shown of any error, in one line."""
    if isinstance(error, SQLAlchemyError):
        return reason_of(error, url)
    if isinstance(error, StoreUnavailable):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    first, *_ = redact(str(error), url).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}"
