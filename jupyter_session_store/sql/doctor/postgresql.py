"""What is examined on PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection

from ..engine.backend import Pooling, backend_of, quote_name
from ..engine.cures import verify_full
from ..engine.places import SEVERAL_FORM
from ..schema.versions import VERSION_TABLE
from ..tables import SESSIONS
from .common import clock, judge_tls, room, server
from .findings import Examinations, Outcome, failed, ok, unknown, warning
from .several_hosts import hosts
from .wall import own_side

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
            f"Name all hosts in the URL: {SEVERAL_FORM}",
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
    cure = verify_full(connection.engine.url)
    if not driver.pgconn.ssl_in_use:
        return judge_tls(host, None, None, how, cure)
    protocol = "TLS"
    if not _is_pooled(connection, driver):
        version, cipher = connection.exec_driver_sql(
            "SELECT version, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).one()
        protocol = f"{version}, {cipher}"
    return judge_tls(host, protocol, mode in _VERIFYING, how, cure)


def pooler(connection: Connection) -> Outcome:
    """Look for a pooler between this process and the server, and at what servers need behind one.

    Nobody can set a time-out there but the role itself.
    """
    driver = _psycopg(connection)
    if driver is None:
        return unknown(f"It cannot be seen with the driver {connection.dialect.driver}.")
    mode = backend_of(connection).driver.pooling(connection)
    if mode is None:
        return ok("None: the server itself answers.")
    lacks: dict[str, tuple[str, ...]] = {}
    if mode is Pooling.TRANSACTION and driver.prepare_threshold is not None:
        lacks["statements are prepared, which transactions of another client do not know"] = (
            'engine_options: "connect_args": {"prepare_threshold": None}',
        )
    limit = connection.exec_driver_sql("SHOW statement_timeout").scalar_one()
    if limit == "0":
        url = connection.engine.url
        console = f"psql --host={url.host or 'HOST'} --port={url.port or 'PORT'} pgbouncer"
        lacks["statements have no time-out"] = (
            f"ALTER ROLE {backend_of(connection).role(connection)} SET statement_timeout = '5s';",
            # What it has open keeps the old one for as long as server_lifetime, an hour.
            f"And have PgBouncer close the connections that it has: {console} --command=RECONNECT",
        )
    text = f"A pooler, such as PgBouncer, in {mode.value} mode"
    if mode is Pooling.TRANSACTION:
        text += ": upgrades need the URL of the server itself"
    if lacks:
        return warning(
            f"{'; '.join((text, *lacks))}.", *(one for cure in lacks.values() for one in cure)
        )
    return ok(f"{text}. Statements have a time-out of {limit}.")


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
        f" WHERE schemaname = current_schema() AND tablename = '{SESSIONS.name}')"
    ).one()
    return bool(may_create) and may_alter is not False


def elsewhere(connection: Connection) -> Outcome | None:
    """Look for the tables in a schema in which this role does not find them."""
    found = connection.exec_driver_sql(
        "SELECT quote_ident(n.nspname), has_schema_privilege(n.oid, 'USAGE'), n.nspname = ANY"
        " (string_to_array(translate(current_setting('search_path'), ' \"', ''), ','))"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE c.relname = '{VERSION_TABLE}' AND NOT pg_table_is_visible(c.oid)"
    ).all()
    if len(found) != 1:
        # Of several, nobody knows which is meant.
        return None
    [(schema, may_use, is_searched)] = found
    role = backend_of(connection).role(connection)
    cure = [] if may_use else [f"GRANT USAGE ON SCHEMA {schema} TO {role};"]
    if not is_searched:
        database = quote_name(connection.dialect, str(connection.engine.url.database))
        cure.append(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema};")
    why = "may not use it" if not may_use else "does not look for them there"
    return failed(f"The tables are in the schema {schema}, and {role} {why}.", *cure)


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
    tables={"wall": own_side},
    may_change_schema=may_change_schema,
    elsewhere=elsewhere,
    hosts=hosts,
)
