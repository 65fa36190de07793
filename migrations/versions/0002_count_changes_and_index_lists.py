"""Count the changes of sessions, and index lists

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-28

``jupyter_sessions.version`` counts the changes of a row. The release before knows nothing of it:
what that inserts begins at 1, and what it changes keeps its version. So while servers of that
release run, a row with the same version may have changed all the same (``updated_at`` tells).

Servers go on working meanwhile: no statement holds the table for longer than it takes to enter the
column in the catalogue. Each operation can be repeated, since a run may end half way: on MySQL and
MariaDB the DDL survives a rollback, and on PostgreSQL the index is made outside a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import context, op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

KIND = "expanding"
OLDEST_COMPATIBLE_CODE = "1"
DOWNGRADE_LOSES: str | None = "how often each session was changed"

_TABLE = "jupyter_sessions"
_INDEX = "ix_jupyter_sessions_namespace_authority_created_at"
_COLUMNS = ["namespace", "authority", "created_at"]


def upgrade() -> None:
    """Add the column and the index."""
    dialect = op.get_context().dialect.name
    columns, indexes = _found()
    if "version" not in columns:
        version = sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("1"))
        op.add_column(_TABLE, version, if_not_exists=dialect == "postgresql" or None)
    if dialect == "postgresql":
        _create_index_concurrently()
    elif _INDEX in indexes:
        pass
    elif dialect in ("mysql", "mariadb"):
        # Rather not at all than with the table locked, as old_alter_table would have it.
        listed = ", ".join(_COLUMNS)
        op.execute(f"CREATE INDEX {_INDEX} ON {_TABLE} ({listed}) ALGORITHM=INPLACE LOCK=NONE")
    else:
        op.create_index(_INDEX, _TABLE, _COLUMNS)


def downgrade() -> None:
    """Drop both."""
    columns, indexes = _found()
    offline = context.is_offline_mode()
    if offline or _INDEX in indexes:
        op.drop_index(_INDEX, _TABLE)
    if offline or "version" in columns:
        _drop_column()


def _found() -> tuple[set[str], set[str]]:
    """Return the columns and the indexes that are there: where only SQL is printed, none."""
    if context.is_offline_mode():
        return set(), set()
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table(_TABLE):
        # A database that has lost it is mended by a downgrade to base.
        return set(), set()
    columns = {str(column["name"]) for column in inspector.get_columns(_TABLE)}
    return columns, {str(index["name"]) for index in inspector.get_indexes(_TABLE)}


def _create_index_concurrently() -> None:
    """Make the index while rows are written; one that an interrupted attempt left is made anew."""
    with op.get_context().autocommit_block(), _waiting_for_dumps():
        # Of an attempt that was interrupted it may be invalid, and would never be used.
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_INDEX}")
        op.create_index(_INDEX, _TABLE, _COLUMNS, postgresql_concurrently=True)


@contextmanager
def _waiting_for_dumps() -> Iterator[None]:
    """Wait for each transaction of the database that is older; servers do not wait behind it."""
    if context.is_offline_mode():
        # Who runs the script has limits of their own.
        yield
        return
    limit = op.get_bind().exec_driver_sql("SHOW lock_timeout").scalar_one()
    op.execute("SET lock_timeout = 0")
    yield
    op.execute(f"SET lock_timeout = '{limit}'")


def _drop_column() -> None:
    dialect = op.get_context().dialect
    if dialect.name == "sqlite" and (dialect.server_version_info or (3, 35)) < (3, 35):
        # It has no other way to drop a column than to copy the table.
        with op.batch_alter_table(_TABLE) as batch:
            batch.drop_column("version")
    else:
        op.drop_column(_TABLE, "version")
