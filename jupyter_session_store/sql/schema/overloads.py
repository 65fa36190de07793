"""What others have left where PostgreSQL looks for functions and operators, and would run them.

``namespace = 'x'`` runs PostgreSQL's own operator, unless another fits the types better, in any
schema of the search path. Who makes one runs it as whoever compares: servers, operators, and the
policies of the wall. To take the right to make things away leaves what was made before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection

from ...errors import SchemaMismatch
from ..engine.backend import listed
from ..engine.url import describe
from ..tables import METADATA, SESSIONS
from .rights import WALL_TABLE
from .versions import VERSION_TABLE

#: How many a sentence lists.
_NAMED: Final = 5


class Overload(NamedTuple):
    """One of them: what it is, whose, and the statement that removes it."""

    text: str
    cure: str


#: Whoever reads it must not run what it looks for: so each comparison is of two equal types, for
#: which PostgreSQL's own comes first. In a schema of a role's name, that role looks first; what it
#: has made there itself is its own affair.
_QUERY: Final = f"""
SELECT i.type, i.identity, pg_catalog.quote_ident(CAST(o.rolname AS text))
FROM (
  SELECT CAST(CAST('pg_catalog.pg_proc' AS regclass) AS oid) AS catalog, p.oid,
    p.pronamespace AS place, p.proowner AS owner
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_proc own ON own.proname = p.proname
  WHERE own.pronamespace = CAST(CAST('pg_catalog' AS regnamespace) AS oid)
    AND p.pronamespace <> own.pronamespace
  UNION
  SELECT CAST(CAST('pg_catalog.pg_operator' AS regclass) AS oid), p.oid,
    p.oprnamespace, p.oprowner
  FROM pg_catalog.pg_operator p JOIN pg_catalog.pg_operator own ON own.oprname = p.oprname
  WHERE own.oprnamespace = CAST(CAST('pg_catalog' AS regnamespace) AS oid)
    AND p.oprnamespace <> own.oprnamespace
  UNION
  SELECT CAST(CAST('pg_catalog.pg_class' AS regclass) AS oid), c.oid, c.relnamespace, c.relowner
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r
    ON EXISTS (SELECT FROM pg_catalog.pg_namespace s WHERE s.oid = c.relnamespace
      AND s.nspname = r.rolname)
  WHERE c.relname IN ({listed([*METADATA.tables, VERSION_TABLE, WALL_TABLE])})
) x
  JOIN pg_catalog.pg_namespace n ON n.oid = x.place
  JOIN pg_catalog.pg_roles o ON o.oid = x.owner,
  LATERAL pg_catalog.pg_identify_object(x.catalog, x.oid, 0) i
WHERE NOT o.rolsuper AND o.rolname <> n.nspname
  AND (n.nspname = 'public' OR n.nspname IN (SELECT r.rolname FROM pg_catalog.pg_roles r)
    OR n.oid = (SELECT c.relnamespace FROM pg_catalog.pg_class c
      WHERE c.oid = CAST(pg_catalog.to_regclass('{SESSIONS.name}') AS oid)))
  AND o.oid <> (SELECT d.datdba FROM pg_catalog.pg_database d
    WHERE d.datname = pg_catalog.current_database())
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c
    WHERE c.oid = CAST(pg_catalog.to_regclass('{SESSIONS.name}') AS oid) AND c.relowner = o.oid)
ORDER BY 2, 1
"""


def find(connection: Connection) -> list[Overload]:
    """Return what others than the owner, and than superusers, have made there."""
    rows = connection.exec_driver_sql(_QUERY)
    return [
        Overload(f"the {kind} {name} is {owner}'s", f"DROP {kind.upper()} {name};")
        for kind, name, owner in rows
    ]


def say(found: Sequence[Overload]) -> str:
    """Return in words what was found."""
    more = len(found) - _NAMED
    named = ", ".join(one.text for one in found[:_NAMED])
    return f"{named}{f' and {more} more' if more > 0 else ''}"


def refuse(connection: Connection) -> None:
    """Raise a SchemaMismatch if there is any."""
    if found := find(connection):
        raise SchemaMismatch(
            f"In {describe(connection.engine.url)} others have made what statements would run in "
            f"the place of PostgreSQL's own: {say(found)}. Expected none. Nothing was changed. If "
            f"nobody needs it, as a superuser: {' '.join(one.cure for one in found)}"
        )
