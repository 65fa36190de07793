"""A PgBouncer of the run's own, in front of the database of a place, that says what it did."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.databases.database import Database, parameters
from tests.databases.pgbouncer import PgBouncer as Bouncer

from .databases import Place


class PgBouncer(Bouncer):
    """PgBouncer in transaction mode, with a password of its own.

    Parameters
    ----------
    place : Place
        In PostgreSQL.
    clients : int
        How many may connect.
    connections : int
        How many it holds to PostgreSQL at most.

    Raises
    ------
    NoDatabase
        If the program is missing, or does not come up.
    """

    def __init__(self, place: Place, *, clients: int, connections: int) -> None:
        super().__init__(
            Database("postgresql", place.text), clients=clients, connections=connections
        )
        self.pooled = Place(place.database, self.database.url, self.database.sqlalchemy_url)

    def statements(self) -> int:
        """Return how many statements it has passed on to the place's database."""
        settings = parameters(self.database.url)
        name = settings.pop("dbname")
        with psycopg.connect(**settings, dbname="pgbouncer", autocommit=True) as connection:
            cursor: psycopg.Cursor[dict[str, Any]] = connection.cursor(
                row_factory=psycopg.rows.dict_row
            )
            cursor.execute("SHOW STATS")
            return sum(int(row["total_query_count"]) for row in cursor if row["database"] == name)
