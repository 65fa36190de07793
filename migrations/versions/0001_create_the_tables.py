"""Create the tables

Revision ID: 0001
Revises:
Create Date: 2026-11-22

Each operation can be repeated: on MySQL and MariaDB the DDL survives a
rollback, so a run that was killed half way leaves tables behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.dialects import mysql, postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

KIND = "expanding"
OLDEST_COMPATIBLE_CODE = "1"
DOWNGRADE_LOSES: str | None = "every session"

#: Not a server's defaults, which may have no transactions, or keys that are too short.
_STORAGE = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("row_format", "DYNAMIC"))
}


def upgrade() -> None:
    """Create the tables of sessions, of servers, and of what the database says of itself."""
    text, long_text, moment = _types()
    op.create_table(
        "jupyter_session_store_meta",
        sa.Column("name", text(64), nullable=False),
        sa.Column("value", text(255), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_jupyter_session_store_meta"),
        if_not_exists=True,
        **_STORAGE,
    )
    op.create_table(
        "jupyter_servers",
        sa.Column("namespace", text(255), nullable=False),
        sa.Column("server_id", text(255), nullable=False),
        sa.Column("hostname", text(255)),
        sa.Column("pid", sa.Integer()),
        sa.Column("version", text(255)),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("renewals", sa.Integer(), nullable=False),
        sa.Column("lease_seconds", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "server_id", name="pk_jupyter_servers"),
        if_not_exists=True,
        **_STORAGE,
    )
    op.create_table(
        "jupyter_sessions",
        sa.Column("namespace", text(255), nullable=False),
        sa.Column("session_id", text(255), nullable=False),
        sa.Column("path", text(4096)),
        sa.Column("path_digest", text(64)),
        sa.Column("name", text(1024)),
        sa.Column("type", text(255)),
        sa.Column("kernel_id", text(255)),
        sa.Column("kernel_name", text(255)),
        sa.Column("kernel_model", long_text),
        sa.Column("authority", text(255), nullable=False),
        sa.Column("server_id", text(255)),
        sa.Column("state", text(16), nullable=False),
        sa.Column("claim", text(64)),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "session_id", name="pk_jupyter_sessions"),
        sa.UniqueConstraint("namespace", "claim", name="uq_jupyter_sessions_namespace_claim"),
        if_not_exists=True,
        **_STORAGE,
    )
    _create_index("ix_jupyter_sessions_namespace_path_digest", ["namespace", "path_digest"])
    _create_index("ix_jupyter_sessions_namespace_kernel_id", ["namespace", "kernel_id"])
    # Typed, so that --sql can print the values.
    meta = sa.table(
        "jupyter_session_store_meta",
        sa.column("name", sa.String()),
        sa.column("value", sa.String()),
    )
    op.execute(meta.delete().where(meta.c.name == "oldest_compatible_code"))
    op.execute(meta.insert().values(name="oldest_compatible_code", value=OLDEST_COMPATIBLE_CODE))


def downgrade() -> None:
    """Drop every table of the package, and with them every session."""
    for table in ("jupyter_sessions", "jupyter_servers", "jupyter_session_store_meta"):
        op.drop_table(table, if_exists=True)


def _types() -> tuple[Any, Any, Any]:
    """Return the text type (by length), the long text and the type of a moment.

    They compare by code point: MySQL's and MariaDB's other collations merge
    case, accents or trailing spaces, and PostgreSQL's order follows a locale.
    The server itself is asked which of the two it is, since a ``mysql://`` URL
    may lead to a MariaDB.
    """
    dialect = op.get_context().dialect
    if dialect.name in ("mysql", "mariadb"):
        collation = "utf8mb4_0900_bin"
        if getattr(dialect, "is_mariadb", False):
            collation = "utf8mb4_nopad_bin"
        return (
            lambda length: mysql.VARCHAR(length, charset="utf8mb4", collation=collation),
            mysql.MEDIUMTEXT(charset="utf8mb4", collation=collation),
            mysql.DATETIME(fsp=6),
        )
    if dialect.name == "postgresql":
        return (
            lambda length: postgresql.VARCHAR(length, collation="C"),
            sa.Text(),
            sa.TIMESTAMP(timezone=True),
        )
    if dialect.name == "sqlite":
        return sa.String, sa.Text(), sa.String(32)
    return sa.String, sa.Text(), sa.DateTime()


def _create_index(name: str, columns: list[str]) -> None:
    # MySQL has no CREATE INDEX IF NOT EXISTS.
    if not context.is_offline_mode():
        indexes = sa.inspect(op.get_bind()).get_indexes("jupyter_sessions")
        if name in {index["name"] for index in indexes}:
            return
    op.create_index(name, "jupyter_sessions", columns)
