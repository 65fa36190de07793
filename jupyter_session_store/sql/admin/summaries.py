"""What a database holds, counted: by namespace, by server, and in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, case, func, literal_column, select

from ...authorities import AUTHORITIES, server_of
from ...records import STATES
from ..queries.authorities import LOCAL, OF_KIND
from ..queries.rows import ReadableDate
from ..tables import SERVERS, SESSIONS, to_utc
from .listing import Criteria

_NEAR: Final = 3
_COUNT: Final = func.count()
_CHANGED: Final[ColumnElement[Any]] = func.max(ReadableDate(SESSIONS.c.updated_at))
#: Who can say that a session's kernel is gone.
KINDS: Final = (*AUTHORITIES, "unknown")
_KIND: Final = case(
    *((is_of_kind, literal_column(f"'{kind}'")) for kind, is_of_kind in OF_KIND.items()),
    else_=literal_column("'unknown'"),
)


@dataclass(frozen=True)
class Namespace:
    """What there is of a namespace.

    `changed_at` is when a session of it was last changed, by the clock of the server that
    did; ``None`` without a session.
    """

    namespace: str
    sessions: int = 0
    servers: int = 0
    changed_at: datetime | None = None


def namespaces(connection: Connection, criteria: Criteria | None = None) -> list[Namespace]:
    """Return the namespaces that have sessions or servers, in their order, by default all."""
    criteria = criteria or Criteria()
    name, server = SESSIONS.c.namespace, SERVERS.c.namespace
    sessions = select(name, _COUNT, _CHANGED).where(*criteria.conditions_of(name)).group_by(name)
    servers = select(server, _COUNT).where(*criteria.conditions_of(server)).group_by(server)
    found = {
        key: Namespace(key, count, changed_at=to_utc(changed))
        for key, count, changed in connection.execute(sessions)
    }
    for key, count in connection.execute(servers):
        found[key] = replace(found.get(key) or Namespace(key), servers=count)
    return [found[key] for key in sorted(found)]


def near_namespaces(connection: Connection, name: str, likely: str) -> list[str]:
    """Return up to three namespaces for which a name may have been meant.

    First those that begin with `likely`, then those that hold the name, whatever the case.
    """
    from difflib import get_close_matches

    columns = (SESSIONS.c.namespace, SERVERS.c.namespace)
    names = sorted({key for one in columns for key in _values(connection, one)})
    wanted = name.strip().casefold()
    inside = [one for one in names if wanted and wanted in one.casefold()]
    inside.sort(key=lambda one: not one.startswith(likely))
    return inside[:_NEAR] or get_close_matches(name, names, _NEAR, cutoff=0.8)


def _values(connection: Connection, column: ColumnElement[str]) -> Iterable[str]:
    return connection.execute(select(column).distinct()).scalars()


def own_kernels(connection: Connection, criteria: Criteria) -> Counter[tuple[str, str]]:
    """Return how many of the sessions are on each server's own kernels, by the server's key."""
    by = (SESSIONS.c.namespace, SESSIONS.c.authority)
    rows = connection.execute(
        select(*by, _COUNT).where(LOCAL, *criteria.conditions()).group_by(*by)
    )
    return Counter({(name, server_of(authority) or ""): count for name, authority, count in rows})


def last_changes(
    connection: Connection, criteria: Criteria
) -> dict[tuple[str, str | None], datetime]:
    """Return when each server last changed a session, by its own clock and its key."""
    by = (SESSIONS.c.namespace, SESSIONS.c.server_id)
    conditions = criteria.conditions_of(SESSIONS.c.namespace)
    rows = connection.execute(select(*by, _CHANGED).where(*conditions).group_by(*by))
    return {(name, server_id): to_utc(changed) for name, server_id, changed in rows}


def totals(connection: Connection) -> dict[str, Any]:
    """Return how many sessions there are in all, by their states and by whose the kernels are.

    A state that no server would have written is there, too.
    """
    state = SESSIONS.c.state
    rows: Any = connection.execute(select(state, _KIND, _COUNT).group_by(state, _KIND))
    states, kinds = Counter(dict.fromkeys(sorted(STATES), 0)), Counter(dict.fromkeys(KINDS, 0))
    for value, kind, count in rows:
        states[value] += count
        kinds[kind] += count
    columns = (SESSIONS.c.namespace, SERVERS.c.namespace)
    return {
        "namespaces": len({key for one in columns for key in _values(connection, one)}),
        "servers": connection.execute(select(_COUNT).select_from(SERVERS)).scalar_one(),
        "sessions": sum(states.values()),
        "by_state": dict(states),
        "by_kernel": dict(kinds),
    }
