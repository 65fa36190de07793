"""MySQL and MariaDB, through PyMySQL."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from ssl import SSLContext
from typing import Any, ClassVar, Final

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from .backend import Backend, Driver, fault_of_port, fault_of_truth, listed, quote_name
from .places import Place
from .timeouts import BUSY_TIMEOUT, CONNECT_TIMEOUT, SILENCE_TIMEOUT, STATEMENT_TIMEOUT

#: PyMySQL's, which cannot tell a host that has gone silent from a statement that takes long.
_READ_TIMEOUT_ARGS: Final = frozenset({"read_timeout", "write_timeout"})

#: The first is for rows, the second for tables.
_LOCK_LIMITS: Final = (
    f"SET SESSION innodb_lock_wait_timeout={BUSY_TIMEOUT}, lock_wait_timeout={BUSY_TIMEOUT}"
)
#: Goes on with a SET. Only MariaDB reads it: MySQL has a limit for SELECT alone.
#: A connection that hangs in a transaction would hold its locks.
_STATEMENT_LIMIT: Final = (
    "/*M!100101 , max_statement_time={0} */ /*M!100300 , idle_transaction_timeout={0} */"
)

#: A connection's number, and the server that has given it.
_SESSION: Final = "SELECT CONNECTION_ID(), @@hostname, @@port, @@datadir"

#: They are no texts, or what the store sets itself.
_NOT_IN_URLS: Final = frozenset(
    {
        "autocommit",
        "auth_plugin_map",
        "binary_prefix",
        "compress",
        "named_pipe",
        "port",
        "conv",
        "cursorclass",
        "defer_connect",
        "ssl",
        "use_unicode",
    }
)
_NUMBERS: Final = frozenset(
    {"client_flag", "connect_timeout", "max_allowed_packet", "read_timeout", "write_timeout"}
)
_TRUTHS: Final = frozenset({"local_infile", "ssl_check_hostname"})
#: PyMySQL takes any text for true: ``ssl_disabled=false`` would switch TLS off. The other two make
#: it forget the ``ssl_ca`` of a URL, which SQLAlchemy passes on in another argument.
_TLS_TRUTHS: Final = frozenset({"ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"})


class PyMySQL(Driver):
    """PyMySQL."""

    extra = "mysql"
    takes_several_hosts = False
    instead = {  # noqa: RUF012
        **dict.fromkeys(
            (
                *("ssl-mode", "ssl_mode", "sslmode", "sslMode", "tls", "useSSL", "requireSSL"),
                *_TLS_TRUTHS,
            ),
            "ssl_ca=PATH (TLS, and the server has to prove that it is the right one)",
        ),
        "ssl_disabled": "'connect_args': {'ssl_disabled': True} in engine_options (no TLS)",
    }
    connect_args = {  # noqa: RUF012
        "connect_timeout": CONNECT_TIMEOUT,
        "read_timeout": SILENCE_TIMEOUT,
        "write_timeout": SILENCE_TIMEOUT,
        "init_command": _LOCK_LIMITS,
        # Said before it connects, it costs no statement where the server has it so already.
        "autocommit": True,
    }
    limiting_args = {  # noqa: RUF012
        "init_command": f"{_LOCK_LIMITS} {_STATEMENT_LIMIT.format(STATEMENT_TIMEOUT)}",
    }
    program_argument = "program_name"

    def parameters(self) -> frozenset[str]:
        """Return what PyMySQL takes, and what SQLAlchemy makes of TLS."""
        from pymysql.connections import Connection

        own = inspect.signature(Connection).parameters.keys() - _NOT_IN_URLS - _TLS_TRUTHS
        return frozenset(own | {"ssl_capath", "ssl_cipher", "ssl_check_hostname"})

    def arguments(self) -> frozenset[str]:
        """Return what PyMySQL takes."""
        from pymysql.connections import Connection

        return frozenset(inspect.signature(Connection).parameters)

    numbers = _NUMBERS | {"port"}
    # The mode in which a certificate is verified may be a word.
    truths = _TRUTHS | (_TLS_TRUTHS - {"ssl_verify_cert"})

    def fault_of_parameter(self, name: str, value: str) -> str | None:
        """Check numbers, what is on or off, and that text is sent as all of Unicode."""
        if name in _NUMBERS and not re.fullmatch(r"[1-9]\d{0,8}", value):
            return "a whole number"
        if name == "port":
            return fault_of_port(value)
        if name in _TRUTHS:
            return fault_of_truth(value)
        if name == "charset" and value.lower() != "utf8mb4":
            return "utf8mb4"
        return None

    def requirement(self, package: str) -> str:
        """Return the extra of this package, or of PyMySQL, that brings a package."""
        extras = {
            "cryptography": "'jupyter_session_store[mysql]'",
            "pynacl": "'pymysql[ed25519]'",
        }
        return extras.get(package.lower(), package)

    def fault_of_password(self, password: str) -> str | None:
        """Check that PyMySQL can send it: it knows no other characters."""
        try:
            password.encode("latin-1")
        except UnicodeError:
            return "a password of the characters of Latin-1"
        return None

    def prepare(self, engine: Engine, given: Mapping[str, Any], *, statement_timeout: bool) -> None:
        """Share a TLS context, and lift the time-outs of a connection if asked."""
        _share_default_context(engine)
        if statement_timeout:
            return
        names = _READ_TIMEOUT_ARGS - engine.url.query.keys() - given.keys()

        @event.listens_for(engine, "connect")
        def _lift(connection: Any, _record: Any) -> None:
            # Not before: PyMySQL's connect_timeout ends with the TCP connection, and a host
            # that accepts it and says nothing would be waited for for ever.
            _lift_timeouts(connection, names)

    def descriptor(self, connection: Any) -> int | None:
        # It has no public name for it.
        descriptor: int = connection._sock.fileno()
        return descriptor

    def place(self, connection: Any) -> str | None:
        if connection.unix_socket:
            return str(Place(connection.unix_socket))
        # It has no public name for the address either.
        address = connection._sock.getpeername()[0]
        return str(Place(connection.host, str(connection.port), address))

    def session(self, connection: Connection) -> tuple[Any, ...] | None:
        driver: Any = connection.connection.dbapi_connection
        found = connection.exec_driver_sql(_SESSION).one()
        return tuple(found) if found[0] == driver.thread_id() else None

    def end_if_waiting(
        self, connection: Connection, session: tuple[Any, ...], seconds: float
    ) -> bool:
        """Look at the list of processes, in which each user sees its own."""
        number, *server = session
        if [*connection.exec_driver_sql(_SESSION).one()][1:] != server:
            return False
        waiting = text(
            "SELECT 1 FROM information_schema.processlist"
            " WHERE id = :number AND command = 'Sleep' AND time >= :seconds"
        )
        found = connection.execute(waiting, {"number": number, "seconds": seconds}).first()
        if found is not None:
            connection.exec_driver_sql(f"KILL {number:d}")
        return found is not None

    def set_migration_limits(self, connection: Connection) -> bool:
        """Lift the time-outs: the wait for a table was limited at connect."""
        _lift_timeouts(connection.connection.dbapi_connection, _READ_TIMEOUT_ARGS)
        # For Alembic's own table, which names no storage engine.
        connection.exec_driver_sql(
            f"SET SESSION default_storage_engine = InnoDB {_STATEMENT_LIMIT.format(0)}"
        )
        connection.commit()
        return True


class MySQLClient(Driver):
    """mysqlclient, whose module is called MySQLdb."""

    distribution = "mysqlclient"
    takes_several_hosts = False
    # Not the client library's default, which may be Latin-1.
    connect_args = {"charset": "utf8mb4"}  # noqa: RUF012

    def fault_of_parameter(self, name: str, value: str) -> str | None:
        """Check that text is sent as all of Unicode."""
        return "utf8mb4" if name == "charset" and value.lower() != "utf8mb4" else None


class MySQL(Backend):
    """MySQL."""

    title = "MySQL"
    drivername = "mysql+pymysql"
    port = 3306
    # With sql_mode ORACLE "BEGIN" begins a block of statements.
    begin = "START TRANSACTION"
    # The defaults of a server may be a storage engine without transactions, or a row format
    # whose keys are too short.
    table_options = {"engine": "InnoDB", "row_format": "DYNAMIC"}  # noqa: RUF012
    # READ COMMITTED takes no writes where the binary log has statements (error 1665).
    migration_isolation = "REPEATABLE READ"
    #: The first that has the collation.
    oldest_release: ClassVar[tuple[int, ...] | None] = (8, 0, 17)
    #: Compares byte by byte and does not ignore trailing spaces. ``utf8mb4_bin`` ignores
    #: them: under it the namespace ``'bob '`` reads ``'bob'``.
    collation: ClassVar[str] = "utf8mb4_0900_bin"
    identity = (
        "SELECT @@hostname, @@port, @@datadir, table_schema, create_time "
        "FROM information_schema.tables "
        "WHERE table_schema = database() AND table_name = 'jupyter_sessions'"
    )
    clock = "SELECT utc_timestamp(6)"
    strict_mode = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')"
    examinations = "mysql"
    no_wall = "it has no policies for rows"

    rolled_back_codes = Backend.rolled_back_codes | {1020, 1180, 1205, 1213, 3101}
    read_only_codes = Backend.read_only_codes | {1047, 1290, 1792, 1836}
    denied_codes = Backend.denied_codes | {1044, 1142, 1143, 1227, 1370}
    lock_timeout_codes = Backend.lock_timeout_codes | {1205}
    schema_changed_codes = Backend.schema_changed_codes | {1048, 1054, 1364, 1452, 3819, 4025}
    _MAKE_ROOM: ClassVar[str] = "Make room on the disk of the database server."
    _RAISE_LIMIT: ClassVar[str] = (
        "Raise what this user may have: ALTER USER CURRENT_USER() WITH MAX_USER_CONNECTIONS 0 "
        "MAX_CONNECTIONS_PER_HOUR 0 MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0; or the "
        "server's max_user_connections."
    )
    cures = {  # noqa: RUF012
        1021: _MAKE_ROOM,
        1047: (
            "This node of a cluster takes no statements now: it has left the others, or gives its "
            "data to a new one. Name another in the URL, or see SHOW STATUS LIKE 'wsrep_%';"
        ),
        1114: _MAKE_ROOM,
        1203: _RAISE_LIMIT,
        1205: (
            "Look for who holds the rows: SHOW FULL PROCESSLIST; A node of a cluster that has left "
            "the others says the same at once: name another in the URL, or see SHOW STATUS LIKE "
            "'wsrep_%';"
        ),
        1226: _RAISE_LIMIT,
        1665: (
            "The server's binary log takes no such writes at its isolation level: "
            "SET GLOBAL binlog_format = 'MIXED';"
        ),
        1969: (
            "If it was too slow: look for long statements and locks (SHOW FULL PROCESSLIST), and "
            "at the server's disk and load."
        ),
    }

    def count_columns(self, table: str, columns: Collection[str]) -> str:
        return (
            "SELECT count(*) FROM information_schema.columns WHERE table_schema = database()"
            f" AND table_name = '{table}' AND column_name IN ({listed(columns)})"
        )

    def exact_text(self, length: int | None) -> TypeEngine[Any]:
        exact = {"charset": "utf8mb4", "collation": self.collation}
        return mysql.VARCHAR(length, **exact) if length else mysql.MEDIUMTEXT(**exact)

    def date_time(self) -> TypeEngine[Any]:
        return mysql.DATETIME(fsp=6)

    def migration_lock(
        self, connection: Connection, attempts: Iterator[None]
    ) -> AbstractContextManager[None]:
        """Hold a named lock."""
        return self._session_lock(
            connection,
            attempts,
            take="SELECT GET_LOCK(:name, 0)",
            release="SELECT RELEASE_LOCK(:name)",
            values={"name": _lock_name(connection)},
        )

    def is_migrating(self, connection: Connection) -> bool:
        """Ask who holds the lock."""
        holder = text("SELECT IS_USED_LOCK(:name)")
        held = connection.execute(holder, {"name": _lock_name(connection)}).scalar_one()
        return held is not None

    def role(self, connection: Connection) -> str:
        name = str(connection.exec_driver_sql("SELECT current_user").scalar_one())
        user, _, host = name.rpartition("@")
        return f"'{user}'@'{host}'"

    def qualify(self, connection: Connection, table: str) -> str:
        database = connection.engine.url.database or "DATABASE"
        return f"{quote_name(connection.dialect, database)}.{table}"


class MariaDB(MySQL):
    """MariaDB."""

    title = "MariaDB"
    drivername = "mariadb+pymysql"
    oldest_release = (10, 11)
    collation = "utf8mb4_nopad_bin"
    # Galera's. Not @@wsrep_on, which a build without it does not know.
    cluster_node = (
        "SELECT count(*) FROM information_schema.global_variables"
        " WHERE variable_name = 'WSREP_ON' AND variable_value = 'ON'"
    )


def _lock_name(connection: Connection) -> str:
    """Return the name of the migration lock: short, and the server's, not a database's."""
    database = connection.execute(text("SELECT database()")).scalar_one()
    return "jss-" + hashlib.sha256(str(database).encode()).hexdigest()[:32]


def _lift_timeouts(connection: Any, names: frozenset[str]) -> None:
    """Let a connection of PyMySQL wait for an answer for as long as it takes."""
    for name in names:
        # It puts them on its socket before each statement, and has no public way to change them.
        setattr(connection, f"_{name}", None)


def _share_default_context(engine: Engine) -> None:
    """Let all connections of an engine share the context of a TLS that verifies nothing.

    And bound their log-in: PyMySQL's own ``connect_timeout`` ends with the TCP connection.

    Without a setting PyMySQL 1.2 makes one at each connect, and reads all of the
    system's certificates for it: tens of milliseconds, in which no other
    thread of the process runs and the event loop stands still. A context for
    certificates that a setting names is made at each connect, since the files
    may have changed.
    """
    from pymysql.connections import Connection

    shared: list[SSLContext] = []

    class SharingConnection(Connection):
        _read_timeout: Any
        connect_timeout: Any

        def connect(self, sock: Any = None) -> None:
            wait = self._read_timeout
            self._read_timeout = min(wait or self.connect_timeout, self.connect_timeout)
            try:
                super().connect(sock)
            finally:
                # It puts it on its socket before the next statement.
                self._read_timeout = wait

        def set_character_set(self, charset: str, collation: str | None = None) -> None:
            # It says it in a statement of each log-in, and SQLAlchemy in another.
            pass

        def _create_ssl_ctx(self, sslp: Any) -> SSLContext:
            if sslp:
                return self._own(sslp)
            if not shared:
                shared.append(self._own(sslp))
            return shared[0]

        def _own(self, sslp: Any) -> SSLContext:
            context: SSLContext = super()._create_ssl_ctx(sslp)  # type: ignore[misc]
            return context

    # Not in a listener of do_connect: those that come after it would not be called.
    engine.dialect.connect = SharingConnection  # type: ignore[method-assign, assignment]
