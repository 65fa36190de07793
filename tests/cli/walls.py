"""A PostgreSQL database whose owner is no superuser, and roles for it, for tests of the wall."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import psycopg

from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.schema import wall

from ..databases import Database
from .doctor_support import with_login
from .support import upgraded

PASSWORD: Final = "another's"


class Walled:
    """A database with its tables, and roles of the server that go after the test.

    Parameters
    ----------
    admin : Database
        As a superuser reaches it.
    """

    def __init__(self, admin: Database) -> None:
        self.admin = admin
        self._suffix = os.urandom(4).hex()
        self._roles: list[str] = []
        self.group = self.name("users")
        # The command makes it.
        self._roles.append(self.group)
        self.owner_role = self.name("owner")
        self.owner = self.role(self.owner_role, "CREATEROLE")
        # PostgreSQL 14 lets everybody make tables there, and only a superuser can change that.
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        admin.execute(f"GRANT CREATE ON SCHEMA public TO {quoted(self.owner_role)}")
        upgraded(self.owner.url)

    def name(self, name: str) -> str:
        """Return a name that no other test's role has."""
        return f"jss_{name}_{self._suffix}"

    def role(self, name: str, options: str = "") -> Database:
        """Make a role that may log in, and return the database as it reaches it."""
        password = PASSWORD.replace("'", "''")
        self._roles.append(name)
        self.admin.execute(f"CREATE ROLE {quoted(name)} LOGIN PASSWORD '{password}' {options}")
        return Database("postgresql", with_login(self.admin, name, PASSWORD))

    def build(self) -> None:
        """Make the wall, as the owner."""
        engine = engines.create(self.owner.url, statement_timeout=False)
        try:
            assert wall.make(engine, self.group).gaps == ()
        finally:
            engine.dispose()

    def close(self) -> None:
        """Drop the roles, and all that is theirs in this database."""
        there = {name for (name,) in self.admin.rows("SELECT rolname FROM pg_roles")}
        for name in [name for name in self._roles[::-1] if name in there]:
            self.admin.execute(f"DROP OWNED BY {quoted(name)} CASCADE")
            self.admin.execute(f"DROP ROLE {quoted(name)}")


def quoted(name: str) -> str:
    """Return a name as SQL writes it."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


@contextmanager
def walled(admin: Database) -> Iterator[Walled]:
    """Yield a database without a wall, and drop its roles."""
    house = Walled(admin)
    try:
        yield house
    finally:
        house.close()


def answer(database: Database, sql: str, *values: object) -> Any:
    """Return the rows of a statement, or how many it changed, or the code of its error."""
    with closing(database.connect()) as connection:
        try:
            done = connection.execute(sql, values or None)
        except psycopg.Error as error:
            return error.sqlstate
        return done.fetchall() if done.description else done.rowcount
