"""PostgreSQL, through psycopg 3."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import select
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import TIMESTAMP, Connection, Engine, String, Text, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from . import timeouts
from .backend import Backend, Driver, Pooling, Rows, fault_of_port, listed
from .hosts import try_in_turn
from .places import SEVERAL_FORM, Place

#: Of libpq: it looks at values only when it connects.
_NUMBERS: Final = frozenset(
    {
        "connect_timeout",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)
_WORDS: Final = {
    "channel_binding": ("disable", "prefer", "require"),
    "client_encoding": ("utf8", "utf-8"),
    "gssencmode": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
    "max_protocol_version": ("", "3.0", "3.2", "latest"),
    "min_protocol_version": ("", "3.0", "3.2", "latest"),
    "ssl_max_protocol_version": ("", "tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3"),
    "ssl_min_protocol_version": ("", "tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3"),
    "sslcertmode": ("disable", "allow", "require"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    # The others are for who only reads.
    "target_session_attrs": ("read-write", "primary", "any"),
}
#: Those that libpq, or PostgreSQL, knows in any case of letters.
_ANY_CASE: Final = frozenset(
    {"client_encoding", "ssl_max_protocol_version", "ssl_min_protocol_version"}
)
_LOGINS: Final = ("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none")

#: The keys of the migration lock, as SQL.
_LOCK_PACKAGE: Final = "CAST({} AS int)".format(
    int.from_bytes(hashlib.sha256(b"jupyter_session_store").digest()[:4], "big") - 2**31
)
_LOCK_SCHEMA: Final = "hashtext(coalesce(current_schema(), ''))"


#: The process of the server that answers.
_PROCESS: Final = "SELECT pg_backend_pid()"
#: A standby has that of its primary.
_CLUSTER: Final = "SELECT system_identifier FROM pg_catalog.pg_control_system()"
#: How often two clients of a pooler look whether one process answers both.
_LOOKS: Final = 5
#: Seconds that the second client waits: a full pool of sessions has no connection for it.
_LOOK_SECONDS: Final = 2.0

#: What PgBouncer and RDS Proxy say to options.
_OPTIONS_REFUSED: Final = re.compile(r"startup parameter|command-line options")


class Psycopg(Driver):
    """psycopg 3, also where another dialect uses it."""

    instead = {  # noqa: RUF012
        "schema": "options=-csearch_path%3DSCHEMA",
        "currentSchema": "options=-csearch_path%3DSCHEMA",
        "search_path": "options=-csearch_path%3DSCHEMA",
        # Of JDBC, Npgsql and node-postgres.
        **dict.fromkeys(
            ("targetServerType", "targetSessionAttributes", "target_session_attributes"),
            "target_session_attrs=read-write",
        ),
        **dict.fromkeys(("hosts", "servers", "failover"), "host=A:5432&host=B:5432"),
        "ssl": "sslmode=require",
        "ssl-mode": "sslmode=require",
        "ssl_mode": "sslmode=require",
    }

    extra = "postgresql"
    takes_several_hosts = True
    # The weakest of libpq's ways to give one: PGAPPNAME and a service file win.
    program_argument = "fallback_application_name"
    connect_args = {  # noqa: RUF012
        # Whatever the database's is: in Latin-1 a text that it has not could not even be sent, and
        # of SQL_ASCII psycopg returns bytes.
        "client_encoding": "utf8",
        "connect_timeout": timeouts.CONNECT_TIMEOUT,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        # Prepared statements belong to a connection; behind PgBouncer in
        # transaction mode the next statement runs on another.
        "prepare_threshold": None,
        "tcp_user_timeout": timeouts.SILENCE_TIMEOUT * 1000,
    }
    # Looking for the type hstore costs a statement on each new connection.
    engine_options = {"use_native_hstore": False}  # noqa: RUF012

    def parameters(self) -> frozenset[str]:
        """Return what libpq knows."""
        from psycopg import pq

        return frozenset(one.keyword.decode() for one in pq.Conninfo.get_defaults())

    def arguments(self) -> frozenset[str]:
        """Return what libpq knows, and what psycopg takes besides."""
        from psycopg import Connection

        return self.parameters() | inspect.signature(Connection.connect).parameters.keys()

    def fault_of_parameter(self, name: str, value: str) -> str | None:
        """Check numbers, and words of which there are few."""
        if name in _NUMBERS and not re.fullmatch(r"\s*-?\d+\s*", value):
            return "a whole number"
        if name in _WORDS:
            word = value.lower() if name in _ANY_CASE else value
            return None if word in _WORDS[name] else " or ".join(filter(None, _WORDS[name]))
        if name == "port":
            # One a host; an empty one is the usual.
            return next(filter(None, map(fault_of_port, filter(None, value.split(",")))), None)
        if name == "require_auth" and value:
            logins = value.split(",")
            unwanted = [one.startswith("!") for one in logins]
            known = all(one.removeprefix("!") in _LOGINS for one in logins)
            if not known or any(unwanted) != all(unwanted):
                return f"some of {', '.join(_LOGINS)}, separated by commas, all or none with a '!'"
        return None

    def describe(self, module: Any, release: str | None) -> str:
        major, minor = divmod(module.pq.version(), 10_000)
        return f"{super().describe(module, release)} ({module.pq.__impl__}), libpq {major}.{minor}"

    def prepare(self, engine: Engine, given: Mapping[str, Any], *, statement_timeout: bool) -> None:
        """Try several hosts in turn, and limit statements, with the log-in where possible."""
        if statement_timeout:
            self._limit_statements(engine, given)
        limited = "connect_timeout" not in {*engine.url.query, *given}
        try_in_turn(engine, engine.dialect.loaded_dbapi.OperationalError, limited=limited)

    def _limit_statements(self, engine: Engine, given: Mapping[str, Any]) -> None:
        # libpq takes options from one place: those of a user are not to be replaced.
        places = {*engine.url.query, *given, *os.environ}
        options = None
        if places.isdisjoint(("options", "service", "PGOPTIONS", "PGSERVICE")):
            # In milliseconds: a whole number.
            limits = _limits().items()
            options = " ".join(f"-c{name}={round(seconds * 1000)}" for name, seconds in limits)
            _log_in_with(options, engine)

        @event.listens_for(engine, "connect")
        def _set(connection: Any, _record: Any) -> None:
            if options is not None and connection.info.options == options:
                return
            autocommit, connection.autocommit = connection.autocommit, True
            connection.execute(_set_limits(connection, _limits()))
            connection.autocommit = autocommit

    def descriptor(self, connection: Any) -> int | None:
        descriptor: int = connection.fileno()
        return descriptor

    def place(self, connection: Any) -> str:
        info = connection.info
        return str(Place(info.host, str(info.port), info.hostaddr))

    def cluster(self, connection: Connection) -> str | None:
        """Return the identifier that `initdb` has given it."""
        try:
            found = connection.exec_driver_sql(_CLUSTER).scalar_one()
        except DBAPIError:
            # The right to ask for it may have been taken, and other databases have no such thing.
            return None
        return str(found)

    def session(self, connection: Connection) -> tuple[Any, ...] | None:
        driver: Any = connection.connection.dbapi_connection
        found = connection.exec_driver_sql(
            "SELECT pid, backend_start FROM pg_catalog.pg_stat_activity"
            f" WHERE pid = pg_backend_pid() AND pid = {driver.info.backend_pid:d}"
        ).one_or_none()
        return None if found is None else tuple(found)

    def end_if_waiting(
        self, connection: Connection, session: tuple[Any, ...], seconds: float
    ) -> bool:
        """Ask for sessions that are idle, within a transaction or without one."""
        ended = connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = :pid"
                " AND backend_start = :began AND state LIKE 'idle%'"
                " AND state_change < clock_timestamp() - make_interval(secs => :seconds)"
            ),
            {"pid": session[0], "began": session[1], "seconds": seconds},
        )
        return ended.first() is not None

    def pooling(self, connection: Connection) -> Pooling | None:
        """Compare the process that answers with the one that was named at connect.

        Between transactions a pooler in transaction mode gives the connection that was used last
        to whoever asks next. So one process answers two clients in turn, or several answer one.
        """
        first: Any = connection.connection.dbapi_connection
        process = connection.exec_driver_sql(_PROCESS).scalar_one()
        if process == first.info.backend_pid:
            return None
        with suppress(first.Error), closing(_connect_again(first)) as second:
            for _ in range(_LOOKS):
                other = _ask_briefly(second, _PROCESS)
                again = connection.exec_driver_sql(_PROCESS).scalar_one()
                if other is None:
                    break
                if process == other or process != again:
                    return Pooling.TRANSACTION
        return Pooling.SESSION

    def set_migration_limits(self, connection: Connection) -> bool:
        """Set both on the server."""
        driver: Any = connection.connection.dbapi_connection
        limits = {**dict.fromkeys(_limits(), 0), "lock_timeout": timeouts.BUSY_TIMEOUT}
        connection.exec_driver_sql(_set_limits(driver, limits))
        connection.commit()
        return True

    def row_writer(
        self, connection: Connection, table: str, columns: Sequence[str]
    ) -> Callable[[Rows], object] | None:
        """Return COPY: many statements, even sent at once, take the server twice as long.

        PostgreSQL refuses it to a role that policies confine.
        """
        confined = f"SELECT pg_catalog.row_security_active('{table}')"
        if connection.exec_driver_sql(confined).scalar():
            return None
        event.listen(connection.engine, "do_executemany", _copy_in)
        event.listen(
            connection.engine,
            "do_execute",
            lambda cursor, sql, row, context: _copy_in(cursor, sql, [row], context),
        )
        return partial(
            connection.exec_driver_sql, f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        )


class PostgreSQL(Backend):
    """PostgreSQL."""

    title = "PostgreSQL"
    drivername = "postgresql+psycopg"
    port = 5432
    variables = {  # noqa: RUF012
        "user": "PGUSER",
        "host": "PGHOST",
        "hostaddr": "PGHOSTADDR",
        "port": "PGPORT",
        "dbname": "PGDATABASE",
        "service": "PGSERVICE",
    }
    oldest_release = (14,)
    identity = "SELECT pg_postmaster_start_time(), current_database(), current_schema()"
    clock = "SELECT clock_timestamp()"
    # Of the transaction: behind a pooler, what is set for longer is set for other clients.
    lock_wait_limit = f"SET LOCAL lock_timeout = '{timeouts.BUSY_TIMEOUT}s'"
    granted = (
        "SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC'"
        " ELSE quote_ident(pg_get_userbyid(a.grantee)) END, c.relname,"
        " array_agg(a.privilege_type ORDER BY a.privilege_type)"
        " FROM pg_catalog.pg_class c, LATERAL aclexplode(c.relacl) a"
        " WHERE c.relname IN ({tables}) AND pg_table_is_visible(c.oid)"
        " AND a.grantee <> c.relowner GROUP BY 1, 2 ORDER BY 1, 2"
    )
    examinations = "postgresql"
    no_wall = None

    cures = {  # noqa: RUF012
        "25006": (
            "It is a standby, or its transactions are read-only: jupyter session-store doctor "
            f"tells which. Name the primary in the URL, or all hosts: {SEVERAL_FORM}"
        ),
        "53100": "Make room on the disk of the database server.",
        "57014": (
            "If it was too slow: look for long statements and locks (SELECT * FROM "
            "pg_stat_activity), and at the server's disk and load."
        ),
        "3F000": "GRANT USAGE, CREATE ON SCHEMA public TO this role; or mend its search_path.",
    }

    def count_columns(self, table: str, columns: Collection[str]) -> str:
        return (
            f"SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('{table}')"
            f" AND NOT attisdropped AND attname IN ({listed(columns)})"
        )

    def exact_text(self, length: int | None) -> TypeEngine[Any]:
        return String(length, collation="C") if length else Text()

    def date_time(self) -> TypeEngine[Any]:
        return TIMESTAMP(timezone=True)

    def date_parameter(self, value: datetime) -> Any:
        return value

    def readable_date(self, column: str) -> str:
        """Return a date within the years that Python has: psycopg fails at ``infinity``."""
        return f"least(greatest({column}, timestamptz '0001-01-03Z'), timestamptz '9999-12-29Z')"

    def qualify(self, connection: Connection, table: str) -> str:
        """Name the schema, where it is not the usual one."""
        schema = connection.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
        return table if schema in (None, "public") else f"{schema}.{table}"

    def migration_lock(
        self, connection: Connection, attempts: Iterator[None]
    ) -> AbstractContextManager[None]:
        """Hold an advisory lock of two keys: the package, and the schema of the tables."""
        return self._session_lock(
            connection,
            attempts,
            take=f"SELECT pg_try_advisory_lock({_LOCK_PACKAGE}, {_LOCK_SCHEMA})",
            release=f"SELECT pg_advisory_unlock({_LOCK_PACKAGE}, {_LOCK_SCHEMA})",
            values={},
        )

    def is_migrating(self, connection: Connection) -> bool:
        """Look at the locks: one that is taken through a pooler may never be released."""
        held = connection.exec_driver_sql(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_catalog.pg_database"
            " WHERE datname = current_database())"
            f" AND classid = CAST({_LOCK_PACKAGE} AS oid) AND objid = CAST({_LOCK_SCHEMA} AS oid)"
            " AND objsubid = 2 AND granted)"
        )
        return bool(held.scalar_one())


def _connect_again(connection: Any) -> Any:
    """Return a second connection as psycopg's first, to which nothing has been sent yet.

    Not from the engine, whose pool may have one connection in all, and which sends statements
    to a new one.
    """
    info = connection.info
    return type(connection).connect(
        info.dsn, host=info.host, port=info.port, password=info.password, autocommit=True
    )


def _ask_briefly(connection: Any, query: str) -> int | None:
    """Return the number that a query of psycopg's connection answers; ``None`` without one in time.

    psycopg itself waits for as long as the pooler has no connection.
    """
    deadline = time.monotonic() + _LOOK_SECONDS
    low = connection.pgconn
    low.send_query(query.encode())
    while low.is_busy():
        ready, _, _ = select.select([low.socket], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        low.consume_input()
    found = low.get_result()
    value = found.get_value(0, 0) if found else None
    while found:
        found = low.get_result()
    return None if value is None else int(value)


def _log_in_with(options: str, engine: Engine) -> None:
    """Give options to each log-in of an engine, until one is refused for their sake.

    PgBouncer, and other poolers, refuse them: what is set for one client would be set for the next.
    """
    connect = engine.dialect.connect
    refused = False

    def connect_with_options(*args: Any, **named: Any) -> Any:
        nonlocal refused
        if refused:
            return connect(*args, **named)
        try:
            return connect(*args, **{"options": options, **named})
        except Exception as error:
            if not _OPTIONS_REFUSED.search(str(error)):
                raise
        made = connect(*args, **named)
        refused = True
        return made

    engine.dialect.connect = connect_with_options  # type: ignore[method-assign]


def _limits() -> dict[str, float]:
    """Return the limits of a server's connection, in seconds.

    A connection that hangs in the middle of a transaction would hold its locks for as long as
    the system takes it for alive.
    """
    limit = timeouts.STATEMENT_TIMEOUT
    return {"statement_timeout": limit, "idle_in_transaction_session_timeout": limit}


def _set_limits(connection: Any, limits: Mapping[str, float]) -> str:
    """Return the statement that sets limits of a psycopg connection, or at 0 lifts them.

    It does nothing behind a pooler, where the process that answers is not the
    one that was named at connect: the limit would stay on the pooler's
    connection, for its next client.
    """
    settings = ", ".join(
        f"set_config('{name}', '{seconds}s', false)" for name, seconds in limits.items()
    )
    return f"SELECT {settings} WHERE pg_backend_pid() = {connection.info.backend_pid:d}"


def _copy_in(cursor: Any, statement: str, rows: Rows, _context: object) -> bool:
    """Do what psycopg has a method of its own for, in the place of `executemany`."""
    if not statement.startswith("COPY "):
        return False
    with cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
    return True
