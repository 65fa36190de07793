"""Giving the sessions of a namespace to another one, all at once."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Final, NamedTuple, cast

from sqlalchemy import Connection, Table, delete, select, update
from sqlalchemy.exc import IntegrityError

from ...errors import SessionConflict, SessionStoreError
from ...records import ServerRecord
from ..engine.transactions import transaction
from ..models import Server, Session
from .admin_connection import retry_if_rolled_back
from .listing import servers

_SERVERS: Final = cast("Table", Server.__table__)
_SESSIONS: Final = cast("Table", Session.__table__)
_there: Final = _SESSIONS.alias("there")

#: How often a rename begins again because a server added to the new namespace meanwhile.
_ATTEMPTS: Final = 5


class ServerAppeared(SessionStoreError):
    """A server is registered that was not known to be dead."""

    def __init__(self, server: ServerRecord) -> None:
        super().__init__(f"The server {server.server_id} has registered or renewed its lease.")
        self.server = server


class Renamed(NamedTuple):
    """What became of a namespace: so many rows came over, so many claims were lost."""

    sessions: int
    servers: int
    claims_lost: int


def rename(
    connection: Connection, old: str, new: str, dead: Collection[ServerRecord] | None
) -> Renamed:
    """Move all rows of a namespace to another, in one transaction.

    A claim names no namespace, and goes along unless one of `new` has it. A
    server that is registered in both stays as it is in `new`.

    Parameters
    ----------
    connection : Connection
    old, new : str
        Two different ones.
    dead : collection of ServerRecord or None
        The servers of both, as they were seen to be dead: no other may be
        registered. ``None``: any server may be.

    Raises
    ------
    ServerAppeared
        If another server is registered. Nothing was changed.
    SessionConflict
        If both have a session of one id. Nothing was changed.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return retry_if_rolled_back(connection, partial(_rename, connection, old, new, dead))
        except IntegrityError:
            # A session was added whose id or claim comes too.
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError


def _rename(
    connection: Connection, old: str, new: str, dead: Collection[ServerRecord] | None
) -> Renamed:
    with transaction(connection):
        if dead is not None:
            _refuse_others(connection, (old, new), dead)
        both = _SESSIONS.join(_there, _SESSIONS.c.session_id == _there.c.session_id)
        conflict = connection.execute(
            select(_SESSIONS.c.session_id)
            .select_from(both)
            .where(_SESSIONS.c.namespace == old, _there.c.namespace == new)
            .order_by(_SESSIONS.c.session_id)
            .limit(1)
        ).scalar()
        if conflict is not None:
            raise SessionConflict(conflict)
        # MySQL reads the table that it updates only where it has to make a table of what it
        # reads, which DISTINCT forces.
        held = select(_there.c.claim).where(_there.c.namespace == new).distinct().subquery()
        lost = connection.execute(
            update(_SESSIONS)
            .where(_SESSIONS.c.namespace == old, _SESSIONS.c.claim.in_(select(held.c.claim)))
            .values(claim=None)
        ).rowcount
        sessions = connection.execute(
            update(_SESSIONS).where(_SESSIONS.c.namespace == old).values(namespace=new)
        ).rowcount
        return Renamed(sessions, _move_servers(connection, old, new), lost)


def _refuse_others(
    connection: Connection, namespaces: tuple[str, str], dead: Collection[ServerRecord]
) -> None:
    known = {(server.namespace, server.server_id): server.renewals for server in dead}
    for namespace in namespaces:
        for server in servers(connection, namespace):
            if known.get((namespace, server.server_id)) != server.renewals:
                raise ServerAppeared(server)


def _move_servers(connection: Connection, old: str, new: str) -> int:
    there = _SERVERS.alias("there")
    held = select(there.c.server_id).where(there.c.namespace == new).distinct().subquery()
    doubled = delete(_SERVERS).where(
        _SERVERS.c.namespace == old, _SERVERS.c.server_id.in_(select(held.c.server_id))
    )
    count = connection.execute(doubled).rowcount
    moved = update(_SERVERS).where(_SERVERS.c.namespace == old).values(namespace=new)
    return count + connection.execute(moved).rowcount
