"""Giving the sessions of a namespace to another one, all at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from ...errors import SessionConflict, SessionStoreError
from ...records import ServerRecord
from ..engine.transactions import transaction
from ..queries.session_queries import CHANGED
from ..tables import SERVERS, SESSIONS
from . import heirs
from .admin_connection import retry_if_rolled_back
from .heirs import Heir, Prefixes
from .listing import Criteria, servers
from .summaries import own_kernels

_there: Final = SESSIONS.alias("there")

#: How often a rename begins again because a server added to the new namespace meanwhile.
_ATTEMPTS: Final = 5


class ServerAppeared(SessionStoreError):
    """A server is registered that was not known to be dead."""

    def __init__(self, server: ServerRecord) -> None:
        super().__init__(f"The server {server.server_id} has registered or renewed its lease.")
        self.server = server


class Renamed(NamedTuple):
    """What became of a namespace: so many rows came over, so many claims were lost.

    `heirs` are the roles that had it behind the wall.
    """

    sessions: int
    servers: int
    claims_lost: int
    heirs: Sequence[Heir] = ()

    def counts(self) -> dict[str, int]:
        """Return the numbers, by their names."""
        return {
            "sessions": self.sessions,
            "servers": self.servers,
            "claims_lost": self.claims_lost,
        }


def plan(connection: Connection, old: str, new: str, prefixes: Prefixes | None = None) -> Renamed:
    """Return what :func:`rename` would do, as far as it can be seen now; it changes nothing.

    Raises a SessionConflict if both have a session of one id.
    """
    _refuse_doubled(connection, old, new)
    held = select(_there.c.claim).where(_there.c.namespace == new)
    sessions, lost, registered = (
        connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
        for table, conditions in (
            (SESSIONS, [SESSIONS.c.namespace == old]),
            (SESSIONS, [SESSIONS.c.namespace == old, SESSIONS.c.claim.in_(held)]),
            (SERVERS, [SERVERS.c.namespace == old]),
        )
    )
    return Renamed(sessions, registered, lost, heirs.of_namespace(connection, old, new, prefixes))


def rename(
    connection: Connection,
    old: str,
    new: str,
    dead: Collection[ServerRecord],
    *,
    force: bool = False,
    prefixes: Prefixes | None = None,
) -> Renamed:
    """Move all rows of a namespace to another, in one transaction, or nothing.

    A claim names no namespace, and goes along unless one of `new` has it. A
    server that is registered in both stays as it is in `new`. No server may be
    registered but those that were seen to be `dead`; with `force`, none that has
    sessions on kernels of its own in `old`. What was granted of `old` behind the wall goes along,
    as :func:`.heirs.of_namespace` says.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            unit = partial(_rename, connection, old, new, dead, force, prefixes)
            return retry_if_rolled_back(connection, unit)
        except IntegrityError:
            # A session was added whose id or claim comes too.
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError


def rename_prefix(connection: Connection, prefixes: Prefixes) -> Sequence[Heir]:
    """Let the roles that have all of a user's namespaces have those of the new name instead."""

    def unit() -> Sequence[Heir]:
        with transaction(connection):
            found = heirs.of_prefix(connection, prefixes)
            heirs.follow(connection, found)
            return found

    return retry_if_rolled_back(connection, unit)


def _rename(
    connection: Connection,
    old: str,
    new: str,
    dead: Collection[ServerRecord],
    force: bool,
    prefixes: Prefixes | None,
) -> Renamed:
    with transaction(connection):
        _refuse_others(connection, old, new, dead, force)
        _refuse_doubled(connection, old, new)
        # Before the rows of the new name are there.
        found = heirs.of_namespace(connection, old, new, prefixes)
        heirs.follow(connection, found, new)
        # MySQL reads the table that it updates only where it has to make a table of what it
        # reads, which DISTINCT forces.
        held = select(_there.c.claim).where(_there.c.namespace == new).distinct().subquery()
        lost = connection.execute(
            update(SESSIONS)
            .where(SESSIONS.c.namespace == old, SESSIONS.c.claim.in_(select(held.c.claim)))
            .values(claim=None)
        ).rowcount
        sessions = connection.execute(
            update(SESSIONS).where(SESSIONS.c.namespace == old).values(namespace=new, **CHANGED)
        ).rowcount
        return Renamed(sessions, _move_servers(connection, old, new), lost, found)


def _refuse_doubled(connection: Connection, old: str, new: str) -> None:
    both = SESSIONS.join(_there, SESSIONS.c.session_id == _there.c.session_id)
    conflict = connection.execute(
        select(SESSIONS.c.session_id)
        .select_from(both)
        .where(SESSIONS.c.namespace == old, _there.c.namespace == new)
        .order_by(SESSIONS.c.session_id)
        .limit(1)
    ).scalar()
    if conflict is not None:
        raise SessionConflict(conflict)


def _refuse_others(
    connection: Connection, old: str, new: str, dead: Collection[ServerRecord], force: bool
) -> None:
    known = {server.key: server.renewals for server in dead}
    registered = servers(connection, old)
    if force:
        own = own_kernels(connection, Criteria(namespace=old))
        registered = [server for server in registered if server.key in own]
    else:
        registered += servers(connection, new)
    for server in registered:
        if known.get(server.key) != server.renewals:
            raise ServerAppeared(server)


def _move_servers(connection: Connection, old: str, new: str) -> int:
    there = SERVERS.alias("there")
    held = select(there.c.server_id).where(there.c.namespace == new).distinct().subquery()
    doubled = delete(SERVERS).where(
        SERVERS.c.namespace == old, SERVERS.c.server_id.in_(select(held.c.server_id))
    )
    count = connection.execute(doubled).rowcount
    moved = update(SERVERS).where(SERVERS.c.namespace == old).values(namespace=new)
    return count + connection.execute(moved).rowcount
