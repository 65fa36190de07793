"""A server of databases, and one that a test may stop and kill."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from typing import Any, Final
from urllib.parse import quote, urlsplit

import psycopg

from .database import DRIVER_ERRORS, Database

#: Names of the servers, for people.
TITLES: Final = {"postgresql": "PostgreSQL", "mysql": "MySQL/MariaDB"}

_MAINTENANCE: Final = {"postgresql": "postgres", "mysql": "mysql"}
_PATIENCE: Final = 120.0

#: What empties a database of PostgreSQL, where all that is in it hangs on its tables. The first
#: objects that are not the system's own have the number 16384.
_EMPTY: Final = """
DO $$ DECLARE one regclass; BEGIN
    FOR one IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND oid >= 16384 LOOP
        EXECUTE format('DROP TABLE %s CASCADE', one);
    END LOOP;
END $$
"""
#: What else may be in it, or may have been changed.
_LOOK: Final = """
SELECT nspname::text, nspowner::text, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_t'
UNION ALL SELECT datdba::text, datacl::text, concat(datconnlimit, datallowconn) FROM pg_database
    WHERE datname = current_database()
UNION ALL SELECT setrole::text, setconfig::text, NULL FROM pg_db_role_setting
    JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
UNION ALL SELECT 'class', relname, NULL FROM pg_class WHERE oid >= 16384
UNION ALL SELECT 'type', typname, NULL FROM pg_type WHERE oid >= 16384
UNION ALL SELECT 'function', proname, NULL FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'extension', extname, NULL FROM pg_extension WHERE oid >= 16384
UNION ALL SELECT 'trigger', evtname, NULL FROM pg_event_trigger
UNION ALL SELECT 'privileges', defaclacl::text, NULL FROM pg_default_acl
UNION ALL SELECT 'object', oid::text, NULL FROM pg_largeobject_metadata
ORDER BY 1, 2, 3
"""


class NoDatabase(Exception):
    """There is no server of a kind: what was tried, and how to get one."""


class Server:
    """A server in which each test gets a database of its own.

    Parameters
    ----------
    kind : str
        ``"postgresql"`` or ``"mysql"``.
    url : str
        Of a database that is always there, with a user who may create databases.
    origin : str
        Where the server comes from, for the summary of a run.
    """

    def __init__(self, kind: str, url: str, origin: str) -> None:
        self.kind = kind
        self.origin = origin
        self.admin = Database(kind, f"{kind}{url[url.index('://') :]}")
        #: Databases that a test has had and that are empty again, and what they looked like then.
        self._emptied: list[Database] = []
        self._looks: dict[str, list[tuple[Any, ...]]] = {}
        self._version = ""

    def version(self) -> str:
        """Return what the server says of itself, in short."""
        # Each test records it.
        self._version = self._version or str(self.admin.rows("SELECT version()")[0][0])
        text = self._version
        if self.kind == "postgresql":
            return " ".join(text.split()[:2])
        number, _, flavour = text.partition("-")
        return f"MariaDB {number}" if "MariaDB" in flavour else f"MySQL {text}"

    def create_database(self) -> Database:
        """Create an empty database with a fresh name."""
        name = f"jss_{secrets.token_hex(6)}"
        if self.kind == "postgresql":
            # template0, because what an administrator put into template1 is not empty, and
            # because only it lets the encoding and the locale differ from the server's.
            options = "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        else:
            # The oldest default that is still met: text that the package does not give a
            # character set and a collation of its own comes to harm here.
            options = "CHARACTER SET latin1 COLLATE latin1_swedish_ci"
        self.admin.execute(f"CREATE DATABASE {name} {options}")
        return Database(self.kind, urlsplit(self.admin.url)._replace(path=f"/{name}").geturl())

    def drop_database(self, database: Database) -> None:
        """Drop a database, whoever is still connected to it."""
        name = urlsplit(database.url).path[1:]
        if self.kind == "postgresql":
            # PostgreSQL gives those who are connected 5 s to go.
            for left in reversed(range(12)):
                try:
                    self.admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                except psycopg.errors.ObjectInUse:
                    if not left:
                        raise
                else:
                    return
        # An open transaction of a forgotten connection would hold the DROP for ever.
        for (thread,) in self.admin.rows(
            f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"
        ):
            try:
                self.admin.execute(f"KILL {thread}")
            except DRIVER_ERRORS as error:
                if error.args[0] != 1094:  # it left by itself
                    raise
        self.admin.execute(f"DROP DATABASE IF EXISTS {name}")

    def lend_database(self) -> Database:
        """Return an empty database: a new one, or one that is as empty as a new one."""
        if self._emptied:
            return self._emptied.pop()
        database = self.create_database()
        if self.kind == "postgresql":
            self._looks[database.url] = database.rows(_LOOK)
        return database

    def take_back(self, database: Database) -> None:
        """Take back a database that was lent, whoever is still connected to it."""
        if self.kind == "postgresql" and self._is_emptied(database):
            self._emptied.append(database)
        else:
            self.drop_database(database)

    def _is_emptied(self, database: Database) -> bool:
        """Empty a database, which takes a tenth of making another; whether it is as it was."""
        name = urlsplit(database.url).path[1:]
        try:
            self.admin.rows(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                f" WHERE datname = '{name}'"
            )
            database.execute(_EMPTY)
            return database.rows(_LOOK) == self._looks[database.url]
        except DRIVER_ERRORS:
            # A test has dropped it, or forbidden to connect to it.
            return False

    def close(self) -> None:
        """End what was started for the tests, if anything was."""


class Instance(Server, ABC):
    """A server of the tests' own: on this machine or in a container.

    Its port, its password and its data stay the same from :meth:`start` to :meth:`start`.
    """

    def __init__(
        self, kind: str, user: str, password: str, host: str, port: int, origin: str
    ) -> None:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        url = f"{kind}://{login}@{host}:{port}/{_MAINTENANCE[kind]}"
        super().__init__(kind, url, origin)

    @abstractmethod
    def start(self) -> None:
        """Start a server that was stopped or killed, and wait until it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server in order; its clients are disconnected."""

    @abstractmethod
    def kill(self) -> None:
        """End the server with SIGKILL. What was committed is there after :meth:`start`."""

    @abstractmethod
    def freeze(self) -> None:
        """Stop the server's processes where they are, as when its machine is paused."""

    @abstractmethod
    def thaw(self) -> None:
        """Let them go on."""

    def restart(self) -> None:
        """Stop the server in order, and start it again."""
        self.stop()
        self.start()

    @abstractmethod
    def put(self, name: str, text: str) -> str:
        """Write a file that the server can read and nobody else.

        Returns
        -------
        str
            Its path, as the server has it.
        """

    @abstractmethod
    def failure(self) -> str | None:
        """Return why the server is not running, or ``None`` if it may still come up."""

    def wait_until_ready(self) -> None:
        """Wait until the server lets its own user in.

        Raises
        ------
        NoDatabase
            If it ended, or does not answer in time.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                # Not "does the port answer": another server could have taken it.
                self.admin.rows("SELECT 1")
                return
            except DRIVER_ERRORS as error:
                reason = self.failure()
                if reason is None and time.monotonic() > deadline:
                    reason = f"no answer in {_PATIENCE:.0f} s: {error}"
                if reason is not None:
                    raise NoDatabase(reason) from None
            time.sleep(0.05)


def new_password() -> str:
    """Return a password that breaks a URL wherever it is not quoted exactly once."""
    return f"%40@:/?#%{secrets.token_urlsafe(12)}&=+;"
