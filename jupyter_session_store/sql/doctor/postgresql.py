"""What is examined on PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection

from ..engine.backend import backend_of
from ..models import Session
from .common import clock, judge_tls, room, server
from .findings import Examinations, Outcome, failed, ok, unknown, warning

#: The modes of libpq in which the server's certificate is verified.
_VERIFYING: Final = ("verify-ca", "verify-full")


def _psycopg(connection: Connection) -> Any:
    """Return the driver's connection, or ``None`` if it is another driver's."""
    return (
        connection.connection.dbapi_connection if connection.dialect.driver == "psycopg" else None
    )


def _is_pooled(connection: Connection, driver: Any) -> bool:
    answering = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return bool(answering != driver.info.backend_pid)


def writable(connection: Connection) -> Outcome:
    """Judge whether this is the primary server."""
    standby, read_only = connection.exec_driver_sql(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')"
    ).one()
    if standby:
        return failed(
            "It is a standby, which takes no writes; expected the primary.",
            "Name all hosts in the URL: ?host=A:5432&host=B:5432&target_session_attrs=read-write",
        )
    if read_only == "on":
        role = backend_of(connection).role(connection)
        return failed(
            "Transactions are read-only here; expected that servers can write.",
            f"ALTER ROLE {role} SET default_transaction_read_only = off;",
        )
    return ok("It takes writes.")


def encoding(connection: Connection) -> Outcome:
    """Judge whether the database can hold every text."""
    found = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if found == "UTF8":
        return ok("UTF8.")
    return failed(
        f"{found}; expected UTF8, in which every text can be stored.",
        "CREATE DATABASE jupyter TEMPLATE template0 ENCODING 'UTF8';",
    )


def tls(connection: Connection) -> Outcome:
    """Judge how the connection is protected."""
    driver = _psycopg(connection)
    if driver is None:
        return unknown(f"The driver {connection.dialect.driver} does not say.")
    options = {option.keyword: option.val for option in driver.pgconn.info}
    mode = (options.get(b"sslmode") or b"prefer").decode()
    host = driver.info.hostaddr or driver.info.host
    how = f"sslmode={mode}"
    if not driver.pgconn.ssl_in_use:
        return judge_tls(host, None, None, how)
    protocol = "TLS"
    if not _is_pooled(connection, driver):
        version, cipher = connection.exec_driver_sql(
            "SELECT version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).one()
        protocol = f"{version}, {cipher}"
    return judge_tls(host, protocol, mode in _VERIFYING, how)


def pooler(connection: Connection) -> Outcome:
    """Look for a pooler between this process and the server.

    The process that answers is then another than the one that was named at connect.
    """
    driver = _psycopg(connection)
    if driver is None:
        return unknown(f"It cannot be seen with the driver {connection.dialect.driver}.")
    if not _is_pooled(connection, driver):
        return ok("None: the server itself answers.")
    cures = ["Give migrations the direct URL: jupyter session-store upgrade --url env:DIRECT_URL"]
    lacks = []
    if driver.prepare_threshold is not None:
        lacks.append("statements are prepared, which transactions of another client do not know")
        cures.append('engine_options: "connect_args": {"prepare_threshold": None}')
    if connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "0":
        lacks.append("statements have no time-out")
        cures.append(
            f"ALTER ROLE {backend_of(connection).role(connection)} SET statement_timeout = '5s';"
        )
    text = (
        "A pooler, such as PgBouncer, is in between: in transaction mode the lock of "
        "migrations does not hold"
    )
    return warning("; ".join((text, *lacks)) + ".", " ".join(cures))


def connections(connection: Connection) -> Outcome:
    """Judge how many more connections there is room for."""
    used, most = connection.exec_driver_sql(
        "SELECT count(*), CAST(current_setting('max_connections') AS integer)"
        " - CAST(current_setting('superuser_reserved_connections') AS integer)"
        " FROM pg_stat_activity WHERE backend_type = 'client backend'"
    ).one()
    return room(used, most, f"ALTER SYSTEM SET max_connections = {most * 2};")


def may_change_schema(connection: Connection) -> bool:
    """Return whether this role may create the tables, and change those that are there."""
    may_create, may_alter = connection.exec_driver_sql(
        "SELECT has_schema_privilege(current_schema(), 'CREATE'),"
        " (SELECT bool_and(pg_has_role(tableowner, 'USAGE')) FROM pg_tables"
        f" WHERE schemaname = current_schema() AND tablename = '{Session.__tablename__}')"
    ).one()
    return bool(may_create) and may_alter is not False


EXAMINATIONS: Final = Examinations(
    server={
        "server": server,
        "writes": writable,
        "encoding": encoding,
        "TLS": tls,
        "pooler": pooler,
        "connections": connections,
        "clock": clock,
    },
    may_change_schema=may_change_schema,
)
