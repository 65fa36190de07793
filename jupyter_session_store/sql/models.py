"""The declarative model, for whoever reads the tables with SQLAlchemy's ORM.

The columns are in :mod:`.tables`, to which it is mapped. Nothing in this package needs it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy.orm import DeclarativeBase, Mapped

from .tables import META, METADATA, SERVERS, SESSIONS


class Base(DeclarativeBase):
    """The base of the model."""

    metadata = METADATA


class Session(Base):
    """A session: a path tied to a kernel.

    The namespace leads every key, so that the table can be distributed by
    tenant, and there is neither a sequence nor a foreign key.
    """

    __table__ = SESSIONS

    if TYPE_CHECKING:
        namespace: Mapped[str]
        session_id: Mapped[str]
        path: Mapped[str | None]
        path_digest: Mapped[str | None]
        name: Mapped[str | None]
        type: Mapped[str | None]
        kernel_id: Mapped[str | None]
        kernel_name: Mapped[str | None]
        kernel_model: Mapped[str | None]
        authority: Mapped[str]
        server_id: Mapped[str | None]
        state: Mapped[str]
        claim: Mapped[str | None]
        created_at: Mapped[datetime]
        updated_at: Mapped[datetime]
        version: Mapped[int]


class Server(Base):
    """A running server, and the lease that it renews by counting."""

    __table__ = SERVERS

    if TYPE_CHECKING:
        namespace: Mapped[str]
        server_id: Mapped[str]
        hostname: Mapped[str | None]
        pid: Mapped[int | None]
        version: Mapped[str | None]
        started_at: Mapped[datetime]
        renewals: Mapped[int]
        lease_seconds: Mapped[int]


class Meta(Base):
    """What the database says of itself: see :mod:`.versions` for the names in use."""

    __table__ = META

    if TYPE_CHECKING:
        name: Mapped[str]
        value: Mapped[str]
