"""What differs between the databases: one object a dialect, and one a driver.

To support another database, write its file in this folder, name it in
:data:`_BACKENDS` and, if its driver needs settings, in :data:`_DRIVERS`. A
dialect that is not named here gets the defaults of :class:`Backend`. The types
of a new dialect are needed in the revision 0001, too, which imports no file of this folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timezone
from enum import Enum
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

from sqlalchemy import URL, Connection, DateTime, Dialect, Engine, String, Text, text
from sqlalchemy.exc import DatabaseError, DBAPIError, ProgrammingError, SQLAlchemyError
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import asbool

#: What a user may type before ``://``, and the class of its object: module and name.
_BACKENDS: Final[Mapping[str, str]] = {
    "sqlite": "sqlite:SQLite",
    "postgres": "postgresql:PostgreSQL",
    "postgresql": "postgresql:PostgreSQL",
    "mysql": "mysql:MySQL",
    "mariadb": "mysql:MariaDB",
}
#: The drivers that need more than the defaults.
_DRIVERS: Final[Mapping[str, str]] = {
    "pysqlite": "sqlite:PySQLite",
    "psycopg": "postgresql:Psycopg",
    "pymysql": "mysql:PyMySQL",
    "mysqldb": "mysql:MySQLClient",
}

#: Rows as the driver takes them, in the order of a statement's columns.
Rows = Sequence[tuple[Any, ...]]


class Pooling(Enum):
    """How long a pooler between this process and the server leaves a connection to one client."""

    SESSION = "session"
    TRANSACTION = "transaction"


class Driver:
    """A Python package that speaks to a database. The defaults suit any."""

    #: What pip calls it; by default its name.
    distribution: str = ""
    #: The extra of this package that installs it.
    extra: ClassVar[str | None] = None
    #: Arguments of its connect function, where neither the URL nor the options give them.
    connect_args: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: The argument of its connect function by which the database knows the program.
    program_argument: ClassVar[str | None] = None
    #: As those, and in their place, where a long statement is given up.
    limiting_args: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    #: Arguments of :func:`sqlalchemy.create_engine`.
    engine_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, name: str) -> None:
        self.name = name
        self.distribution = type(self).distribution or name

    def parameters(self) -> frozenset[str] | None:
        """Return the parameters that a URL may have; ``None`` if that is not known."""
        return None

    def arguments(self) -> frozenset[str] | None:
        """Return what its connect function takes by name; ``None`` if that is not known."""
        return None

    #: Those of them that it takes as numbers alone, or as true or false, where a URL has texts.
    numbers: ClassVar[frozenset[str]] = frozenset()
    truths: ClassVar[frozenset[str]] = frozenset()

    def fault_of_parameter(self, name: str, value: str) -> str | None:
        """Return what a known parameter's value has to be, if it is not; never the value."""
        return None

    #: Whether a URL may name several hosts, which are tried in turn; ``None`` if not known.
    takes_several_hosts: ClassVar[bool | None] = None
    #: What to write for parameters of other programs.
    instead: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def requirement(self, package: str) -> str:
        """Return what pip installs a package by that the driver needs for some log-ins."""
        return package

    def fault_of_password(self, password: str) -> str | None:
        """Return what a password has to be, if it is not; never the password."""
        return None

    def describe(self, module: Any, release: str | None) -> str:
        """Return its name and release, for operators."""
        return self.name if release is None else f"{self.name} {release}"

    def prepare(self, engine: Engine, given: Mapping[str, Any], *, statement_timeout: bool) -> None:
        """Set up the connections of an engine; `given` are the connect arguments of its options."""

    def descriptor(self, connection: Any) -> int | None:
        """Return the file descriptor of a connection's socket; ``None`` if it cannot be cut."""
        return None

    def place(self, connection: Any) -> str | None:
        """Return the host, the port and the address of a connection; ``None`` if not known."""
        return None

    def cluster(self, connection: Connection) -> str | None:
        """Return what a primary and its standbys have alike, and no others; ``None`` if unknown."""
        return None

    def session(self, connection: Connection) -> tuple[Any, ...] | None:
        """Return what a connection is to its database; ``None`` if that is not to be known.

        Behind a pooler the database sees another connection, or many.
        """
        return None

    def end_if_waiting(
        self, connection: Connection, session: tuple[Any, ...], seconds: float
    ) -> bool:
        """End another session if it has waited for its client for so long; return whether it has.

        Its locks go with it. On a server that is not the session's, nothing is found.
        """
        return False

    def pooling(self, connection: Connection) -> Pooling | None:
        """Return the mode of a pooler in between; ``None`` if none is seen.

        `connection` has no transaction. :attr:`Pooling.TRANSACTION` is proved; a pooler that
        is not seen to give its connections to several clients is taken for one of sessions.
        """
        return None

    def set_migration_limits(self, connection: Connection) -> bool:
        """Lift the time-out of statements, and limit the wait for a lock.

        Returns whether the connection has settings now that no other work may have.
        """
        return False

    def row_writer(
        self, connection: Connection, table: str, columns: Sequence[str]
    ) -> Callable[[Rows], object] | None:
        """Return the driver's own fast way to add rows, or ``None`` if it has none."""
        return None


class Backend:
    """A database. The defaults suit a dialect that another package brings."""

    #: Its name as its makers write it; by default that of the dialect.
    title: str = ""
    #: The dialect and the driver that a URL without a driver means; ``None``: SQLAlchemy's choice.
    drivername: ClassVar[str | None] = None
    port: ClassVar[int | None] = None
    #: The variables of the environment in which the driver looks for what a URL leaves out.
    variables: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: The oldest release that this package is made for.
    oldest_release: ClassVar[tuple[int, ...] | None] = None

    #: How a transaction of several statements begins.
    begin: ClassVar[str] = "BEGIN"
    #: Whether no other connection writes after that until it ends.
    begin_excludes_writers: ClassVar[bool] = False
    #: Whether it is a file of this machine, opened by a library in this process.
    is_embedded: ClassVar[bool] = False
    #: Whether a database may be the stock manager's, with its table.
    may_hold_stock_table: ClassVar[bool] = False
    #: Whether a column holds values of its type alone.
    is_typed: ClassVar[bool] = True
    #: What is said of each table when it is made.
    table_options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: The level of a migration's connection, which has real transactions.
    migration_isolation: ClassVar[str | None] = "READ COMMITTED"
    #: Has a transaction wait for a lock no longer than a server does.
    lock_wait_limit: ClassVar[str | None] = None
    #: Has a connection refuse a text that is too long, not cut it off.
    strict_mode: ClassVar[str | None] = None
    #: A query whose answer is the same on all connections to one database, and on no others.
    identity: ClassVar[str | None] = None
    #: A query for its clock.
    clock: ClassVar[str | None] = None
    #: A query that says 1 on a node of a cluster whose nodes all take writes, and else 0. There a
    #: lock is one node's own, and what several nodes do at once is compared by the rows that each
    #: has written: a row that a statement has only matched, and locked, counts for nothing.
    cluster_node: ClassVar[str | None] = None
    #: What stands for a role whose name is not known.
    any_role: ClassVar[str] = "ROLE"
    #: A query for the rights that others than the owner have on ``{tables}``, and lose when these
    #: are dropped: the role, the table, and the verbs.
    granted: ClassVar[str | None] = None
    #: The module of :mod:`..doctor` that examines it; without one, only the general things are.
    examinations: ClassVar[str | None] = None
    #: Why it cannot keep users of one database apart, row by row; ``None`` if it can.
    no_wall: ClassVar[str | None] = "it is not known here how this database keeps rows apart"

    #: Codes of errors: SQLSTATEs, and a driver's numbers. It rolled back a unit of work for
    #: another's sake (a deadlock, a wait for a lock that took too long).
    rolled_back_codes: ClassVar[frozenset[object]] = frozenset({"40001", "40P01"})
    #: The server takes no writes. One that was a primary keeps its connections when another
    #: takes its place, and goes on answering reads.
    read_only_codes: ClassVar[frozenset[object]] = frozenset({"25006"})
    #: The role lacks a right.
    denied_codes: ClassVar[frozenset[object]] = frozenset({"42501"})
    #: Another transaction held a table for too long.
    lock_timeout_codes: ClassVar[frozenset[object]] = frozenset({"55P03"})
    #: What an operator can do about an error, by its code.
    cures: ClassVar[Mapping[object, str]] = MappingProxyType({})
    #: A column is missing, or a rule that the schema does not have refused a row (a column that
    #: has to be given, a check, a foreign key), where the driver does not call that a
    #: ``ProgrammingError``.
    schema_changed_codes: ClassVar[frozenset[object]] = frozenset({"23502", "23503", "23514"})

    def __init__(self, name: str, driver: Driver) -> None:
        self.name = name
        self.title = type(self).title or name
        self.driver = driver

    def is_memory(self, url: URL) -> bool:
        """Return whether the database lives in this process's memory alone."""
        return False

    def normalise(self, url: URL) -> URL:
        """Return a URL in the one form that the rest of the package knows."""
        return url

    def file(self, url: URL) -> Path | None:
        """Return the file that a URL names, or ``None`` if it names none."""
        return None

    def describe(self, url: URL) -> str:
        """Return what may be shown of a URL: the role, the host, the port and the name.

        A socket stands in brackets, as an IPv6 address does.
        """

        def elsewhere(name: str) -> str:
            value = url.query.get(name) or os.environ.get(self.variables.get(name, ""), "")
            return value if isinstance(value, str) else ",".join(value)

        user, database = url.username or elsewhere("user"), url.database or elsewhere("dbname")
        if any(one in database for one in "=:"):
            # libpq takes a whole URL in its place.
            database = ""
        hosts = url.host or elsewhere("host") or elsewhere("hostaddr")
        hosts = hosts or ("localhost" if self.port else "")
        ports = str(url.port or "") or elsewhere("port") or str(self.port or "")
        # What a service of libpq's names is in a file.
        service = "" if url.host or elsewhere("host") else elsewhere("service")
        socket = elsewhere("unix_socket") or (f"service {service}" if service else "")
        places = f"[{socket}]" if socket else _places(hosts, ports)
        words = f"{user}@" if user else "", places, f"/{database}" if database else ""
        return f"{self.name} {''.join(words)}".rstrip()

    def prepare(self, engine: Engine) -> None:
        """Set up the connections of an engine."""

    def keep_journal(self, connection: Connection) -> None:
        """Give a file a journal with which readers and a writer do not wait for each other.

        Now, and at each later connect of this engine. Only for a file with this package's
        tables: another may be another program's, or a backup. `connection` has no transaction.
        """

    def forget_journal(self, engine: Engine) -> None:
        """Leave the journal of the file as it is from now on: it may be another file."""

    def count_columns(self, table: str, columns: Collection[str]) -> str | None:
        """Return a query for how many of these columns a table has; ``None`` if there is none.

        It does not wait for who has locked the table.
        """
        return None

    def exact_text(self, length: int | None) -> TypeEngine[Any]:
        """Return the type of a text that compares by its code points; of a long one if `None`."""
        return String(length) if length else Text()

    def date_time(self) -> TypeEngine[Any]:
        """Return the type of a date to the microsecond."""
        return DateTime()

    def date_parameter(self, value: datetime) -> Any:
        """Turn an aware datetime into what the driver takes."""
        return in_utc(value).replace(tzinfo=None)

    def readable_date(self, column: str) -> str:
        """Return the SQL that reads a date, and never one at which the driver fails."""
        return column

    def is_rolled_back(self, error: SQLAlchemyError) -> bool:
        """Return whether the database undid a unit of work for another's sake."""
        return isinstance(error, DatabaseError) and _has_code(error, self.rolled_back_codes)

    def is_read_only(self, error: SQLAlchemyError) -> bool:
        """Return whether the server is one that takes no writes."""
        return _has_code(error, self.read_only_codes)

    def is_write_denied(self, error: SQLAlchemyError) -> bool:
        """Return whether the role may only read, or the server is one that only reads."""
        return _has_code(error, self.denied_codes | self.read_only_codes)

    def is_denied(self, error: SQLAlchemyError) -> bool:
        """Return whether the role lacks a right."""
        return _has_code(error, self.denied_codes)

    def is_lock_timeout(self, error: SQLAlchemyError) -> bool:
        """Return whether another transaction held a table for too long."""
        return _has_code(error, self.lock_timeout_codes)

    def is_schema_changed(self, error: SQLAlchemyError) -> bool:
        """Return whether a table, a column or a right may be missing."""
        return isinstance(error, ProgrammingError) or _has_code(error, self.schema_changed_codes)

    def cure_of(self, error: BaseException) -> str | None:
        """Return what an operator can do about an error, if that is known."""
        known = (cure for code, cure in self.cures.items() if _has_code(error, frozenset({code})))
        return getattr(error, "cure", None) or next(known, None)

    def migration_lock(
        self, connection: Connection, attempts: Iterator[None]
    ) -> AbstractContextManager[None]:
        """Hold the lock under which alone a schema changes; by default there is none.

        `attempts` waits before each attempt but the first, and raises when there are no more.
        """
        return nullcontext()

    def is_migrating(self, connection: Connection) -> bool:
        """Return whether another connection holds that lock, which is not waited for."""
        return False

    @contextmanager
    def _session_lock(
        self,
        connection: Connection,
        attempts: Iterator[None],
        *,
        take: str,
        release: str,
        values: dict[str, Any],
    ) -> Iterator[None]:
        """Hold a lock that belongs to the connection, and outlives its transactions."""
        for _attempt in attempts:
            held = connection.execute(text(take), values).scalar_one()
            # Between two polls, and during the migrations, no transaction stays open.
            connection.commit()
            if held:
                break
        try:
            yield
        finally:
            connection.rollback()
            connection.execute(text(release), values)
            connection.commit()

    def role(self, connection: Connection) -> str:
        """Return the role of this connection, as the database's statements name it."""
        name = str(connection.exec_driver_sql("SELECT current_user").scalar_one())
        return quote_name(connection.dialect, name)

    def qualify(self, connection: Connection, table: str) -> str:
        """Return a table as a GRANT names it."""
        return table


def backend_of(what: URL | Engine | Connection | Dialect | type[Dialect]) -> Backend:
    """Return what is special about a database.

    MariaDB that is spoken to as ``mysql://`` is known as such from the first connect on.
    """
    if isinstance(what, URL):
        name, _, driver = what.drivername.partition("+")
        return _make(name, driver)
    dialect: Any = what.dialect if isinstance(what, (Connection, Engine)) else what
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    return _make(name, dialect.driver)


#: Of an engine: what its database said when its schema was looked at.
_ON_CLUSTER_NODE: Final = "jupyter_session_store_on_cluster_node"


def note_cluster_node(engine: Engine, found: bool) -> None:
    """Note, for the next connections of an engine, what :attr:`Backend.cluster_node` has found."""
    engine.update_execution_options(**{_ON_CLUSTER_NODE: found})


def is_on_cluster_node(connection: Connection) -> bool:
    """Return what was noted of a connection's engine; no statement."""
    return bool(connection.get_execution_options().get(_ON_CLUSTER_NODE))


def ask_cluster_node(connection: Connection) -> bool:
    """Return what :attr:`Backend.cluster_node` says; one statement, where there may be clusters."""
    query = backend_of(connection).cluster_node
    return query is not None and bool(connection.exec_driver_sql(query).scalar_one())


@lru_cache(maxsize=32)
def _make(name: str, driver: str) -> Backend:
    driver_class: type[Driver] = _import(_DRIVERS[driver]) if driver in _DRIVERS else Driver
    backend_class: type[Backend] = _import(_BACKENDS[name]) if name in _BACKENDS else Backend
    return backend_class(name, driver_class(driver))


def _import(name: str) -> Any:
    # Late: a process imports what belongs to its own database alone.
    module, _, attribute = name.partition(":")
    return getattr(import_module(f".{module}", __package__), attribute)


def quote_name(dialect: Dialect, name: str) -> str:
    """Return a name as a statement that is shown has it.

    For its own statements SQLAlchemy doubles a percent sign, which the driver makes one again.
    """
    preparer: Any = dialect.identifier_preparer
    quoted: str = preparer.quote(name)
    return quoted.replace("%%", "%") if preparer._double_percents else quoted


def fault_of_port(value: str) -> str | None:
    """Return what the number of a port has to be, if it is not."""
    if re.fullmatch(r"\d{1,5}", value.strip()) and 1 <= int(value) <= 65535:
        return None
    return "a number from 1 to 65535"


def fault_of_truth(value: str) -> str | None:
    """Return what a parameter that is on or off has to be, if it is not, as SQLAlchemy reads it."""
    try:
        asbool(value)
    except ValueError:
        return "true or false"
    return None


def listed(names: Collection[str]) -> str:
    """Return names as SQL has them in a list of texts."""
    return ", ".join(f"'{name}'" for name in names)


def _places(hosts: str, ports: str) -> str:
    """Return the hosts with their ports; one port may be that of all, and a host have its own."""
    names, numbers = hosts.split(","), ports.split(",")
    numbers += numbers[-1:] * (len(names) - len(numbers))
    places = []
    for name, number in zip(names, numbers, strict=False):
        host, colon, port = name.partition(":")
        if "/" in name or ":" in port:
            host, colon = f"[{name}]", ""
        port = port if colon else number
        places.append(f"{host}:{port}" if host and port else host)
    return ",".join(places)


def in_utc(value: datetime) -> datetime:
    """Return an aware datetime in UTC."""
    return value if value.tzinfo is timezone.utc else value.astimezone(timezone.utc)


def _has_code(error: BaseException, codes: frozenset[object]) -> bool:
    """Return whether a driver names an error by one of these SQLSTATEs or numbers."""
    orig = error.orig if isinstance(error, DBAPIError) else None
    # psycopg2 has its own name for it, which dialects of other packages use by default.
    states = (getattr(orig, name, None) for name in ("sqlstate", "pgcode"))
    return any(state in codes for state in states) or any(
        isinstance(code, int) and code in codes for code in getattr(orig, "args", ())[:1]
    )
