"""What is examined on MySQL and MariaDB."""

from __future__ import annotations

import ssl
from typing import Any, Final

from sqlalchemy import Connection, text

from ..engine.backend import ask_cluster_node, backend_of
from ..engine.mysql import MySQL
from ..tables import METADATA
from .common import clock, judge_tls, room, server
from .findings import Examinations, Outcome, failed, ok, unknown, warning

_OURS: Final = ", ".join(f"'{name}'" for name in METADATA.tables)
#: The levels at which a binary log of statements takes no writes (error 1665).
_NOT_IN_STATEMENTS: Final = ("READ-COMMITTED", "READ-UNCOMMITTED")
_DDL: Final = frozenset({"ALTER", "CREATE", "DROP", "INDEX"})


#: How PyMySQL is told to have the server prove who it is.
_VERIFIED: Final = (
    'engine_options = {"connect_args": {"ssl": {"ca": "PATH", "check_hostname": True}}}'
)


def writable(connection: Connection) -> Outcome:
    """Judge whether this is the primary server, and whether its binary log takes writes."""
    found = str(connection.exec_driver_sql("SELECT @@global.read_only").scalar_one()).upper()
    if found not in ("0", "OFF"):
        return failed(
            "It is read-only, as a replica is; expected the primary.",
            "Name the primary in the URL, or if this is to be it: SET GLOBAL read_only = OFF;",
        )
    log = dict(
        tuple(row)
        for row in connection.exec_driver_sql(
            "SHOW SESSION VARIABLES WHERE Variable_name IN"
            " ('log_bin', 'binlog_format', 'transaction_isolation', 'tx_isolation')"
        )
    )
    level = str(log.get("transaction_isolation") or log.get("tx_isolation"))
    on = str(log.get("log_bin")).upper() in ("ON", "1")
    if on and log.get("binlog_format") == "STATEMENT" and level in _NOT_IN_STATEMENTS:
        return failed(
            f"Its binary log has statements (binlog_format STATEMENT), and takes none at the "
            f"isolation level {level}: nothing can be written.",
            "SET GLOBAL binlog_format = 'MIXED';",
        )
    return ok("It takes writes.")


def tls(connection: Connection) -> Outcome:
    """Judge how the connection is protected."""
    status = dict(
        tuple(row)
        for row in connection.exec_driver_sql(
            "SHOW SESSION STATUS WHERE Variable_name IN ('Ssl_version', 'Ssl_cipher')"
        )
    )
    driver: Any = connection.connection.dbapi_connection
    host = getattr(driver, "unix_socket", None) or connection.engine.url.host
    if not status.get("Ssl_cipher"):
        return judge_tls(host, None, None, "no cipher is in use", _VERIFIED)
    protocol = f"{status.get('Ssl_version') or 'TLS'}, {status['Ssl_cipher']}"
    context = getattr(driver, "ctx", None)
    if not isinstance(context, ssl.SSLContext):
        return judge_tls(host, protocol, None, "whether verified is not known", _VERIFIED)
    verified = context.verify_mode is ssl.CERT_REQUIRED
    how = "the certificate is not verified"
    if verified:
        how = "the certificate is verified, the host's name "
        how += "too" if context.check_hostname else "is not"
    return judge_tls(host, protocol, verified, how, _VERIFIED)


def pooler(connection: Connection) -> Outcome:
    """Look for a proxy between this process and the server.

    The connection that answers has then another number than was told at connect.
    """
    comment, answering = connection.exec_driver_sql(
        "SELECT @@version_comment, connection_id()"
    ).one()
    driver: Any = connection.connection.dbapi_connection
    if "proxy" not in str(comment).lower():
        if not hasattr(driver, "thread_id"):
            return unknown(f"It cannot be seen with the driver {connection.dialect.driver}.")
        if answering == driver.thread_id():
            return ok("None is seen: the server itself answers.")
    return ok(
        "A proxy is in between. Migrations need the server's own URL, where it gives each "
        "transaction another connection: their lock does not hold there."
    )


def cluster(connection: Connection) -> Outcome:
    """Judge a node of a Galera cluster: whether it keeps up, and what its readers see."""
    if not ask_cluster_node(connection):
        return ok("None: it is no node of Galera.")
    status = dict(
        tuple(row)
        for row in connection.exec_driver_sql(
            "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status',"
            " 'wsrep_cluster_size', 'wsrep_local_state_comment')"
        )
    )
    quorum, state = status.get("wsrep_cluster_status"), status.get("wsrep_local_state_comment")
    text = f"A node of Galera, {state}, one of {status.get('wsrep_cluster_size')}"
    if quorum != "Primary":
        return failed(
            f"{text}, whose part of the cluster is {quorum}: it takes no statements; expected "
            "Primary.",
            "Name a node in the URL that is with the others.",
        )
    lacks: dict[str, str] = {}
    if state != "Synced":
        lacks["expected Synced: it is behind, or gives its data to another node"] = (
            "Wait until it is, or name another node in the URL; HAProxy's check leaves it out."
        )
    if not int(connection.exec_driver_sql("SELECT @@wsrep_sync_wait").scalar_one()) & 1:
        lacks[
            "a read does not wait for what another node has just written (wsrep_sync_wait), so "
            "a list may lack a session where servers use several nodes"
        ] = "On each node, and in its configuration: SET GLOBAL wsrep_sync_wait = 7;"
    if lacks:
        return warning(f"{'; '.join((text, *lacks))}.", *lacks.values())
    return ok(f"{text}; reads wait for what other nodes have written.")


def connections(connection: Connection) -> Outcome:
    """Judge how many more connections there is room for."""
    most = connection.exec_driver_sql("SELECT @@max_connections").scalar_one()
    _, used = connection.exec_driver_sql(
        "SHOW GLOBAL STATUS WHERE Variable_name = 'Threads_connected'"
    ).one()
    return room(int(used), most, f"SET GLOBAL max_connections = {most * 2};")


def collation(connection: Connection) -> Outcome:
    """Judge whether the columns tell apart what differs."""
    backend = backend_of(connection)
    assert isinstance(backend, MySQL)
    expected = backend.collation
    wrong = connection.exec_driver_sql(
        "SELECT table_name, column_name, collation_name FROM information_schema.columns"
        f" WHERE table_schema = database() AND table_name IN ({_OURS})"
        f" AND collation_name <> '{expected}'"
    ).all()
    if not wrong:
        return ok(f"{expected}, in every column.")
    table, column, found = wrong[0]
    return failed(
        f"{len(wrong)} columns have another, such as {found} in {table}.{column}; expected "
        f"{expected}, which tells case, accents and trailing spaces apart.",
        *(
            f"ALTER TABLE {name} CONVERT TO CHARACTER SET utf8mb4 COLLATE {expected};"
            for name in sorted({row[0] for row in wrong})
        ),
    )


def storage_engine(connection: Connection) -> Outcome:
    """Judge whether the tables have transactions."""
    wrong = connection.exec_driver_sql(
        "SELECT t.table_name, t.engine FROM information_schema.tables t"
        " JOIN information_schema.engines e ON e.engine = t.engine"
        f" WHERE t.table_schema = database() AND t.table_name IN ({_OURS})"
        " AND e.transactions <> 'YES'"
    ).all()
    if not wrong:
        return ok("One with transactions, for every table.")
    return failed(
        f"{', '.join(f'{engine} of {table}' for table, engine in wrong)}; expected one with "
        "transactions.",
        *(f"ALTER TABLE {table} ENGINE = InnoDB;" for table, _ in wrong),
    )


def may_change_schema(connection: Connection) -> bool | None:
    """Return whether this user may create and change the tables; roles are not looked into."""
    given = connection.execute(
        text(
            "SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = :user"
            " UNION SELECT privilege_type FROM information_schema.schema_privileges"
            " WHERE grantee = :user AND database() LIKE table_schema"
        ),
        {"user": backend_of(connection).role(connection)},
    ).scalars()
    return True if set(given) >= _DDL else None


EXAMINATIONS: Final = Examinations(
    server={
        "server": server,
        "writes": writable,
        "TLS": tls,
        "pooler": pooler,
        "cluster": cluster,
        "connections": connections,
        "clock": clock,
    },
    tables={"collation": collation, "storage engine": storage_engine},
    may_change_schema=may_change_schema,
)
