"""Whether a server could renew its lease: a read alone does not show that writes fail."""

from __future__ import annotations

from typing import Final, cast

from sqlalchemy import Connection, Table, bindparam, update

from ...records import ServerRecord
from ..engine.backend import backend_of
from ..engine.transactions import transaction
from ..models import Server

_SERVERS: Final = cast("Table", Server.__table__)
_MOVE: Final = (
    update(_SERVERS)
    .where(
        _SERVERS.c.namespace == bindparam("in_namespace"),
        _SERVERS.c.server_id == bindparam("this_id"),
    )
    .values(renewals=_SERVERS.c.renewals + bindparam("step"))
)


def write(connection: Connection, server: ServerRecord) -> None:
    """Write the row of a server, commit it, and leave it as it was.

    It waits for a lock no longer than a server does.

    Parameters
    ----------
    connection : Connection
    server : ServerRecord
        Any server will do; it may have gone meanwhile.

    Raises
    ------
    SQLAlchemyError
        If the database took no such write.
    """
    this = {"in_namespace": server.namespace, "this_id": server.server_id}
    with transaction(connection):
        if limit := backend_of(connection).lock_wait_limit:
            connection.exec_driver_sql(limit)
        # Where nothing is changed, MySQL and SQLite write nothing, and do not notice that the
        # disk is full. The two are one transaction: no other connection sees what is between.
        for step in (1, -1):
            connection.execute(_MOVE, {**this, "step": step})
