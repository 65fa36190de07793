"""The declarative model: the tables as the newest migration leaves them.

Only Alembic changes the schema; the migrations do not import this module, so
that an old one goes on saying what it said. A test compares the two.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final, cast

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Index,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from .engine.backend import backend_of

#: What a date that no clock wrote is read as, so that one row edited by hand
#: does not fail a whole list.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, to the microsecond, on every database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type."""
        return backend_of(dialect).date_time()

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Turn an aware datetime into what the driver takes."""
        return None if value is None else backend_of(dialect).date_parameter(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Turn what the driver gives into an aware datetime in UTC."""
        return to_utc(value)


def to_utc(value: Any) -> datetime:
    """Turn what a driver gives for a date into an aware datetime in UTC."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if value.tzinfo is timezone.utc:
            aware: datetime = value
        elif value.tzinfo is None:
            aware = value.replace(tzinfo=timezone.utc)
        else:
            aware = value.astimezone(timezone.utc)
    except (AttributeError, OverflowError, ValueError):
        return EPOCH
    return aware


class ExactText(TypeDecorator[str]):
    """A text that compares and sorts by its code points on every database.

    Its length is in characters; without one the text is long and never compared.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type."""
        return backend_of(dialect).exact_text(self.length)


class Base(DeclarativeBase):
    """The base of the model; constraints are named, so that a migration can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Session(Base):
    """A session: a path tied to a kernel.

    The namespace leads every key, so that the table can be distributed by
    tenant, and there is neither a sequence nor a foreign key.
    """

    __tablename__ = "jupyter_sessions"

    #: The tenant.
    namespace: Mapped[str] = mapped_column(ExactText(255), primary_key=True)
    #: As in the REST API; unique in the namespace.
    session_id: Mapped[str] = mapped_column(ExactText(255), primary_key=True)
    #: As in the REST API; null where the row only names a kernel to look for.
    path: Mapped[str | None] = mapped_column(ExactText(4096))
    #: SHA-256 of the path, in hexadecimal: a key on the path itself would be too long for MySQL.
    path_digest: Mapped[str | None] = mapped_column(ExactText(64))
    #: As in the REST API.
    name: Mapped[str | None] = mapped_column(ExactText(1024))
    #: `notebook`, `console`, `file`, or a client's own.
    type: Mapped[str | None] = mapped_column(ExactText(255))
    #: The kernel that it is on; null where that has no id yet.
    kernel_id: Mapped[str | None] = mapped_column(ExactText(255))
    #: The kernel specification that the kernel was started from.
    kernel_name: Mapped[str | None] = mapped_column(ExactText(255))
    #: The last known model of the kernel, as JSON: shown while the kernel cannot be asked.
    kernel_model: Mapped[str | None] = mapped_column(ExactText)
    #: What alone can say that the kernel is gone: `server:` and a server's id, or `gateway:` and
    #: a gateway's name.
    authority: Mapped[str] = mapped_column(ExactText(255))
    #: The server that created the session, has taken it over, or is closing it.
    server_id: Mapped[str | None] = mapped_column(ExactText(255))
    #: `starting`, `ready` or `closing`.
    state: Mapped[str] = mapped_column(ExactText(16))
    #: The right to the path: SHA-256 of the authority and the path; null where none is held.
    claim: Mapped[str | None] = mapped_column(ExactText(64))
    #: From the clock of the server that wrote it first.
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)
    #: From the clock of the server that wrote it last.
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime)
    #: Counts the changes of the row; 1 at first.
    version: Mapped[int] = mapped_column(server_default=text("1"))

    __table_args__ = (
        UniqueConstraint("namespace", "claim"),
        Index(None, "namespace", "path_digest"),
        Index(None, "namespace", "kernel_id"),
        # For a list. Without the id, by which that is ordered last: three texts of 1,020 bytes do
        # not fit into an index of PostgreSQL.
        Index(None, "namespace", "authority", "created_at"),
    )


class Server(Base):
    """A running server, and the lease that it renews by counting."""

    __tablename__ = "jupyter_servers"

    #: The tenant.
    namespace: Mapped[str] = mapped_column(ExactText(255), primary_key=True)
    #: Chosen at random at each start.
    server_id: Mapped[str] = mapped_column(ExactText(255), primary_key=True)
    #: The host that it runs on.
    hostname: Mapped[str | None] = mapped_column(ExactText(255))
    #: Its process on that host.
    pid: Mapped[int | None]
    #: Of this package, and of Python.
    version: Mapped[str | None] = mapped_column(ExactText(255))
    #: From its own clock; for people.
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    #: Grows with each renewal of the lease.
    renewals: Mapped[int]
    #: For how many seconds that may stand still before the others hold it for dead.
    lease_seconds: Mapped[int]


class Meta(Base):
    """What the database says of itself: see :mod:`.versions` for the names in use."""

    __tablename__ = "jupyter_session_store_meta"

    #: Of what is said.
    name: Mapped[str] = mapped_column(ExactText(64), primary_key=True)
    #: What is said.
    value: Mapped[str] = mapped_column(ExactText(255))


def _name_storage(table: Table, connection: Connection, **_: object) -> None:
    # Not in the table's definition: there SQLAlchemy imports the dialect of each option.
    dialect = connection.dialect
    for option, value in backend_of(dialect).table_options.items():
        table.dialect_kwargs[f"{dialect.name}_{option}"] = value


for _table in Base.metadata.tables.values():
    event.listen(_table, "before_create", _name_storage)

#: The tables themselves, for statements of the core.
SESSIONS: Final = cast("Table", Session.__table__)
SERVERS: Final = cast("Table", Server.__table__)
