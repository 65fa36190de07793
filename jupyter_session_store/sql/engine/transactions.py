"""Transactions of several statements, on connections that commit by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from .backend import backend_of


@contextmanager
def commit_or_roll_back(connection: Connection) -> Iterator[None]:
    """Commit what was begun, or roll it back on an error, which goes on unhidden."""
    try:
        yield
    except BaseException:
        # An interrupt may have ended the connection itself, and the transaction with it.
        if not connection.invalidated:
            with suppress(SQLAlchemyError):
                connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Hold a transaction open on any database."""
    connection.exec_driver_sql(backend_of(connection).begin)
    with commit_or_roll_back(connection):
        yield
