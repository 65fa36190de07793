"""The records: all that crosses from one room of the package to another."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, get_args, get_type_hints

# Plugins may import them from here, as before they stood there.
from .authorities import GATEWAY_AUTHORITY as GATEWAY_AUTHORITY
from .authorities import SERVER_AUTHORITY as SERVER_AUTHORITY
from .authorities import authority_kind as authority_kind
from .authorities import authority_of as authority_of
from .authorities import server_of as server_of
from .errors import InvalidValue, SessionStoreError
from .paths import claim_of as claim_of
from .paths import digest as digest
from .paths import path_digest as path_digest
from .paths import path_key as path_key

STARTING: Final = "starting"
READY: Final = "ready"
CLOSING: Final = "closing"
STATES: Final = frozenset({STARTING, READY, CLOSING})

#: The most characters (code points, as ``len`` counts them) that a text may have.
LIMITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "namespace": 255,
        "authority": 255,
        "session_id": 255,
        "path": 4096,
        "name": 1024,
        "type": 255,
        "kernel_id": 255,
        "kernel_name": 255,
        "server_id": 255,
        "kernel_model": 16_384,
    }
)

#: What an id may not hold that becomes part of a URL and of a file's name: it would lead elsewhere.
_LEADS_ELSEWHERE: Final = re.compile(r"[/\\%?#]|^ | $|^\.*$")

#: The columns that the stock manager has too: the ones a caller may search and change.
STOCK_COLUMNS: Final = frozenset({"session_id", "path", "name", "type", "kernel_id"})


class Liveness(Enum):
    """What an authority says of a kernel. Never a bool: not knowing is not knowing."""

    ALIVE = "alive"
    #: The authority confirmed that the kernel is no more.
    GONE = "gone"
    #: The authority could not be asked, or gave no answer that names the kernel.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Scope:
    """The sessions that a statement is confined to, compared exactly.

    Parameters
    ----------
    namespace : str
        The tenant. Servers of one namespace are replicas of each other.
    authority : str
        What alone can say that a kernel of these sessions is gone.
    """

    namespace: str
    authority: str

    def __post_init__(self) -> None:
        check_text("namespace", self.namespace)
        check_text("authority", self.authority)


class SessionRecord(NamedTuple):
    """A session as the store keeps it.

    A named tuple: a list makes one of each row, and a frozen dataclass takes
    six times as long to make. The columns that the stock manager has, :data:`STOCK_COLUMNS`,
    are also read as ``record["path"]``; every other field only as an attribute.

    Parameters
    ----------
    namespace, authority : str
        The :class:`Scope` of the session.
    session_id : str
        Unique in the namespace.
    path, name, type : str or None
        As in the REST API of Jupyter Server.
    kernel_id, kernel_name : str or None
        The kernel, and the kernel specification that it was started from.
    kernel_model : str or None
        The last known model of the kernel, as JSON text: shown while the
        kernel's authority cannot be asked, and decoded only then.
    server_id : str or None
        The server that wrote the session, or is closing it: what it leaves
        unfinished is finished by the server that evicts it.
    state : str
        ``starting``, ``ready`` or ``closing``.
    claim : str or None
        :func:`.claim_of` the path while the session holds it, else ``None``.
    created_at, updated_at : datetime
        Aware, in UTC, to the microsecond, read from the writing server's clock.
        For people and for the order of a list; no decision rests on them.
    version : int
        Counts the changes of the stored session; 1 at first.
    """

    namespace: str
    authority: str
    session_id: str
    path: str | None
    name: str | None
    type: str | None
    kernel_id: str | None
    kernel_name: str | None
    kernel_model: str | None
    server_id: str | None
    state: str
    claim: str | None
    created_at: datetime
    updated_at: datetime
    version: int = 1

    @property
    def scope(self) -> Scope:
        """The scope that this record belongs to."""
        return Scope(self.namespace, self.authority)

    def __getitem__(self, key: Any) -> Any:
        """Return a field by its position, or a column by its name."""
        if isinstance(key, str):
            if key not in STOCK_COLUMNS:
                raise KeyError(key)
            return getattr(self, key)
        return tuple.__getitem__(self, key)

    @property
    def is_placeholder(self) -> bool:
        """Whether it is being created without a path, and so is no session.

        It only names a kernel that has to be looked for, and shut down if no session is on it.
        """
        return self.state == STARTING and self.path is None

    @property
    def keeps_kernel_alive(self) -> bool:
        """Whether the session goes on to use its kernel."""
        return self.state != CLOSING and not self.is_placeholder

    def says_the_same(self, other: SessionRecord) -> bool:
        """Return whether two records differ at most in when and how often they were changed."""
        return self.replace(updated_at=other.updated_at, version=other.version) == other

    def outdates(self, other: SessionRecord) -> bool:
        """Return whether this is the same session after as many changes as the other, or more.

        One of the same id that was made at another time is another session.
        """
        return self.created_at == other.created_at and self.version >= other.version

    def replace(self, **changes: Any) -> SessionRecord:
        """Return a copy with `changes`."""
        return self._replace(**changes)

    def is_repeated_by(self, added: SessionRecord) -> bool:
        """Return whether adding a record once more would lead to this one, which is stored.

        It was perhaps made ready or opened again since, which counted as a change.
        """
        may_differ = {"state": self.state, "updated_at": self.updated_at, "version": self.version}
        return added.replace(**may_differ) == self

    def check(self) -> None:
        """Check every text of the record as :func:`check_text` does."""
        for name in LIMITS:
            check_text(name, getattr(self, name))

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the fields as JSON has them, dates as ISO 8601 in UTC to the microsecond."""
        return _to_dict(self._asdict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SessionRecord:
        """Return the record of which :meth:`to_dict` has made `values`.

        Fields that this release does not know are left out, and those that an older one did
        not have get their defaults.

        Raises
        ------
        InvalidValue
            If a field is missing or not of its type.
        """
        return cls(**_from_dict(cls, values, cls._field_defaults))


@dataclass(frozen=True)
class ServerRecord:
    """A running server, registered in the store with a lease.

    Parameters
    ----------
    namespace, server_id : str
    hostname : str or None
    pid : int or None
    version : str or None
        Of this package, for operators.
    started_at : datetime
        Aware, in UTC; for people, no decision rests on it.
    renewals : int
        Grows with each renewal. A server that sees it stand still for
        `lease_seconds` on a clock of its own may evict the server.
    lease_seconds : int
    """

    namespace: str
    server_id: str
    hostname: str | None
    pid: int | None
    version: str | None
    started_at: datetime
    renewals: int
    lease_seconds: int

    @property
    def key(self) -> tuple[str, str]:
        """The namespace and the id, which no other server has."""
        return (self.namespace, self.server_id)

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the fields as :meth:`.SessionRecord.to_dict` does."""
        return _to_dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ServerRecord:
        """Return the record of which :meth:`to_dict` has made `values`.

        As :meth:`.SessionRecord.from_dict`.
        """
        return cls(**_from_dict(cls, values, {}))


@dataclass(frozen=True)
class Closing:
    """A session that was marked ``closing``, as it is now.

    Parameters
    ----------
    record : SessionRecord
    last : bool
        Whether no other session that stays uses the kernel. Of the sessions on
        one kernel that are closed, however concurrently, exactly one is last.
    """

    record: SessionRecord
    last: bool


@dataclass(frozen=True)
class Move:
    """A session that was moved from one kernel to another, as it is now.

    Parameters
    ----------
    record : SessionRecord
    last : bool
        Whether no other session that stays uses the kernel that it left. Of
        those that leave one kernel, by a move or by being closed, however
        concurrently, exactly one is last.
    """

    record: SessionRecord
    last: bool


@dataclass(frozen=True)
class Departure:
    """What a server tells the store at an orderly stop.

    It asks for two things, in this order: that the sessions go which it :meth:`removes`, and
    that the server's registration goes, unless it :meth:`keeps_registration`.

    Parameters
    ----------
    scope : Scope
        The departing server's.
    server_id : str
        The departing server.
    running : frozenset of str or None
        The kernels of its own that go on running. ``None`` where the kernels are a gateway's,
        and all sessions stay.
    """

    scope: Scope
    server_id: str
    running: frozenset[str] | None

    def removes(self, record: SessionRecord) -> bool:
        """Return whether a session goes: one of the scope whose kernel does not run on."""
        if self.running is None or record.scope != self.scope:
            return False
        return record.kernel_id is None or record.kernel_id not in self.running

    def keeps_registration(self, stored: Collection[SessionRecord]) -> bool:
        """Return whether the server stays registered, and is left to its lease.

        It does while kernels of its own run on, and while it is starting or closing a session:
        whoever evicts it finishes that.

        Parameters
        ----------
        stored : collection of SessionRecord
            The sessions that are left, of any namespace and authority.
        """
        return bool(self.running) or any(
            (one.namespace, one.server_id) == (self.scope.namespace, self.server_id)
            and one.state in (STARTING, CLOSING)
            for one in stored
        )


@dataclass(frozen=True)
class Mirrored:
    """The sessions of a scope after a store was made to equal some.

    Parameters
    ----------
    stored : mapping of str to SessionRecord
        The sessions as the store has them now, by their ids; a refused one as it was, if
        it was there.
    refused : mapping of str to SessionStoreError
        Those that it cannot store, by their ids, and why: :class:`.InvalidValue` or
        :class:`.SessionConflict`.
    """

    stored: Mapping[str, SessionRecord]
    refused: Mapping[str, SessionStoreError] = field(default_factory=dict)


@dataclass(frozen=True)
class StoreContents:
    """All that is in a store, of every namespace.

    Parameters
    ----------
    sessions : collection of SessionRecord
    servers : collection of ServerRecord
    """

    sessions: Collection[SessionRecord]
    servers: Collection[ServerRecord]


@dataclass(frozen=True)
class StoreDescription:
    """What may be shown of a store, and what it has counted since it was opened.

    Parameters
    ----------
    backend : str
        Such as ``postgresql jupyter@db:5432/jupyter``: no password, no whole URL.
    statements : int
        How many it has sent to a database; 0 where there is none.
    evictions : int
        How many servers it has evicted. Of those that try at once, one counts.
    fails_writes : bool
        Whether writes fail where reads do not, as on a full disk.
    sessions : int or None
        How many sessions the scope had, with which the store was opened, at the last renewal,
        without the :attr:`placeholders <.SessionRecord.is_placeholder>`. ``None`` where that is
        not counted: then the last list is what is shown.
    host : str or None
        Which host has answered last, where the database has several, such as ``db2:5432``.
    unfinished : int or None
        How many sessions of the scope, the placeholders included, the server was starting or
        closing at the last renewal. More than it knows of are there after a restore. ``None``
        where that is not counted: then they are finished by the server that evicts this one.
    """

    backend: str
    statements: int = 0
    evictions: int = 0
    fails_writes: bool = False
    sessions: int | None = None
    host: str | None = None
    unfinished: int | None = None


def _to_dict(values: Mapping[str, Any]) -> dict[str, str | int | None]:
    dates = {
        name: value.astimezone(timezone.utc).isoformat(timespec="microseconds")
        for name, value in values.items()
        if isinstance(value, datetime)
    }
    return {**values, **dates}


@lru_cache
def _types(record: type) -> Mapping[str, tuple[type, ...]]:
    """Return the types that each field of a record may have."""
    return {name: get_args(hint) or (hint,) for name, hint in get_type_hints(record).items()}


def _from_dict(
    record: type, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of a record out of `values`, each checked."""
    found = {}
    for name, types in _types(record).items():
        if name not in values and name not in defaults:
            raise InvalidValue(name, "is missing", "every field of the record")
        found[name] = _from_plain(name, types, values.get(name, defaults.get(name)))
    return found


def _from_plain(name: str, types: tuple[type, ...], value: object) -> object:
    """Return the value of a record's field that is `value` in JSON."""
    if value is None and type(None) in types:
        return None
    plain = int if int in types else str
    if not isinstance(value, plain) or isinstance(value, bool):
        raise InvalidValue(
            name, f"is of type {type(value).__name__}", f"one of type {plain.__name__}"
        )
    if datetime not in types:
        return value
    with suppress(ValueError):
        date = datetime.fromisoformat(str(value))
        if date.tzinfo is not None:
            return date.astimezone(timezone.utc)
    raise InvalidValue(name, "is no date with an offset", "ISO 8601, as to_dict writes it")


def check_text(field: str, value: object) -> None:
    """Check that a value can be stored exactly, on every database, in a field of :data:`LIMITS`.

    ``None`` can.

    Raises
    ------
    InvalidValue
        If `value` is not a string, is over-long, holds a NUL (PostgreSQL has no
        such text) or a lone surrogate (no UTF-8 has).
    """
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidValue(field, f"is of type {type(value).__name__}", "a string or null")
    if len(value) > LIMITS[field]:
        raise InvalidValue(
            field, f"has {len(value)} characters", f"at most {LIMITS[field]} characters"
        )
    if "\0" in value:
        raise InvalidValue(field, "contains a NUL character", "text without NUL characters")
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue(
            field, "contains a lone surrogate", "text that can be encoded as UTF-8"
        ) from None


def is_plain_id(text: str) -> bool:
    """Return whether a kernel's id may be put into a URL or the name of a file."""
    return text.isprintable() and _LEADS_ELSEWHERE.search(text) is None


def check_given(field: str, value: object) -> None:
    """Check what a client gives, as :func:`check_text` does; a kernel's id and name even more.

    Raises
    ------
    InvalidValue
        Also for the id of a kernel that is not plain, which becomes part of a gateway's URL and
        of the name of a file; and for a kernel's name that cannot be printed, which no kernel has.
    """
    check_text(field, value)
    if not isinstance(value, str):
        return
    if field == "kernel_id" and not is_plain_id(value):
        raise InvalidValue(
            field,
            "is no plain id",
            "one that is not of dots alone, without slashes, backslashes, percent and number "
            "signs, question marks and control characters",
        )
    if field == "kernel_name" and not value.isprintable():
        raise InvalidValue(field, "contains a control character", "the name of a kernel")


def printable(text: str) -> str:
    """Return a text with what cannot be seen escaped, so that it begins no line of a log."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def check_namespace(value: str) -> None:
    """Check a namespace that was configured.

    Raises
    ------
    InvalidValue
        If it is empty, has white space at its edges, which cannot be seen, or
        is refused by :func:`check_text`.
    """
    expected = f"1 to {LIMITS['namespace']} characters without white space at the edges"
    if not value:
        raise InvalidValue("namespace", "is empty", expected)
    if value != value.strip():
        raise InvalidValue("namespace", "has white space at its edges", expected)
    check_text("namespace", value)
