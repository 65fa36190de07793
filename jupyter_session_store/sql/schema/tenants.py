"""The roles behind the wall: which there are, what each was granted, and which go round it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, text

from .wall import FOUND, NAMESPACE, PREFIX, WALL, WALLED, Facts

#: Roles of PostgreSQL itself whose members read files, or run programs, of its server.
_POWERFUL: Final = ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program")


@dataclass(frozen=True)
class Tenant:
    """A role that is a member of the group, or was granted a namespace.

    `quoted` is its name as SQL writes it. `detour` says in words how it goes round the wall, and
    `cure` is the statement against that; both are ``None`` if it does not.
    """

    name: str
    quoted: str
    is_member: bool
    may_log_in: bool
    detour: str | None = None
    cure: str | None = None


@dataclass(frozen=True)
class Grant:
    """A namespace that a role was granted; with `is_prefix` all that begin so."""

    role: str
    namespace: str
    is_prefix: bool
    is_there: bool = True

    def __str__(self) -> str:
        return f"{self.namespace}..." if self.is_prefix else self.namespace

    @property
    def row(self) -> dict[str, str]:
        """How it is stored."""
        kind = PREFIX if self.is_prefix else NAMESPACE
        return {"role": self.role, "namespace": self.namespace, "kind": kind}


#: Each role with all roles that it may become, itself among them.
_REACHABLE: Final = """
WITH RECURSIVE reachable (oid, becomes) AS (
  SELECT oid, oid FROM pg_roles WHERE {chosen}
  UNION
  SELECT r.oid, m.roleid FROM reachable r JOIN pg_auth_members m ON m.member = r.becomes
)
"""
_DETOURS: Final = (
    _REACHABLE
    + """
SELECT CAST(t.rolname AS text) AS name, quote_ident(t.rolname) AS quoted,
  t.rolcanlogin AS may_log_in, quote_ident(b.rolname) AS becomes, t.oid = b.oid AS is_itself,
  b.rolsuper, b.rolbypassrls, b.rolreplication, b.rolcreaterole,
  quote_ident(b.rolname) = :owner AS is_owner, b.rolname IN :powerful AS is_powerful,
  quote_ident(b.rolname) = :group AS is_group
FROM reachable JOIN pg_roles t ON t.oid = reachable.oid JOIN pg_roles b ON b.oid = becomes
ORDER BY 1, is_itself DESC, 4
"""
)
#: Those below the group, at any depth, and those that a grant names; not who administers it.
_BEHIND: Final = """
oid IN (SELECT r.oid FROM pg_roles r JOIN {schema}.{wall} w ON w.role = r.rolname) OR oid IN (
  WITH RECURSIVE members (oid) AS (
    SELECT m.member FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
      JOIN pg_roles r ON r.oid = m.member
      WHERE quote_ident(g.rolname) = :group AND quote_ident(r.rolname) <> :owner
    UNION
    SELECT m.member FROM members b JOIN pg_auth_members m ON m.roleid = b.oid
  )
  SELECT oid FROM members
) AND NOT rolsuper
"""


def tenants(connection: Connection, facts: Facts) -> dict[str, Tenant]:
    """Return the roles behind the wall, by their names."""
    return _read(connection, facts, _BEHIND.format(schema=facts.schema, wall=WALL), {})


def find(connection: Connection, facts: Facts, role: str) -> Tenant | None:
    """Return a role, whether it is behind the wall or not; ``None`` if there is none."""
    # As texts: a longer name is not the one to which PostgreSQL would cut it.
    chosen = "CAST(rolname AS text) = CAST(:role AS text)"
    return _read(connection, facts, chosen, {"role": role}).get(role)


def _read(
    connection: Connection, facts: Facts, chosen: str, more: Mapping[str, str]
) -> dict[str, Tenant]:
    query = text(_DETOURS.format(chosen=chosen)).bindparams(bindparam("powerful", expanding=True))
    values = {"owner": facts.owner, "group": facts.group, "powerful": _POWERFUL, **more}
    found: dict[str, Tenant] = {}
    for row in connection.execute(query, values):
        known = found.get(row.name) or Tenant(row.name, row.quoted, False, row.may_log_in)
        detour, cure = _detour(row) if known.detour is None else (known.detour, known.cure)
        found[row.name] = Tenant(
            row.name,
            row.quoted,
            known.is_member or row.is_group,
            row.may_log_in,
            detour,
            cure,
        )
    return found


def _detour(row: Any) -> tuple[str | None, str | None]:
    """Return how a role goes round the wall as another that it may become, or as itself."""
    if row.is_owner:
        how, word = "owns the tables", None
    elif row.rolsuper:
        how, word = "is a superuser", "NOSUPERUSER"
    elif row.rolbypassrls:
        how, word = "has BYPASSRLS", "NOBYPASSRLS"
    elif row.rolreplication:
        how, word = "has REPLICATION, and may copy the whole server", "NOREPLICATION"
    elif row.rolcreaterole:
        how, word = "has CREATEROLE, and may enter other roles", "NOCREATEROLE"
    elif row.becomes == "pg_write_all_data":
        how, word = "writes all tables, that of the revision too", None
    elif row.is_powerful:
        how, word = "reads the files of the database server", None
    else:
        return None, None
    if not row.is_itself:
        return (
            f"is a member of {row.becomes}, which {how}",
            f"REVOKE {row.becomes} FROM {row.quoted};",
        )
    return how, None if word is None else f"ALTER ROLE {row.quoted} {word};"


def grants(connection: Connection, facts: Facts) -> list[Grant]:
    """Return all that was granted, by the names of the roles."""
    query = (
        f"SELECT CAST(w.role AS text) AS role, w.namespace, w.kind = '{PREFIX}',"
        " EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.role) AS is_there"
        f" FROM {facts.schema}.{WALL} w WHERE w.kind <> '{FOUND}' ORDER BY 1, 2, 3"
    )
    return [Grant(*row) for row in connection.execute(text(query))]


def add(connection: Connection, facts: Facts, given: Collection[Grant]) -> int:
    """Add grants, and return how many of them were not there."""
    into = f"INSERT INTO {facts.schema}.{WALL} (role, namespace, kind)"
    one = text(f"{into} VALUES (:role, :namespace, :kind) ON CONFLICT DO NOTHING")
    # Those of which there are rows already; later ones are entered by whoever writes the first.
    found = text(
        f"{into} SELECT CAST(:role AS text), n.namespace, '{FOUND}' FROM {NAMESPACES} n"
        " WHERE n.namespace >= :namespace AND starts_with(n.namespace, :namespace)"
        " ON CONFLICT DO NOTHING"
    )
    count = 0
    for grant in given:
        count += connection.execute(one, grant.row).rowcount
        if grant.is_prefix:
            connection.execute(found, {"role": grant.role, "namespace": grant.namespace})
    return count


#: The namespaces of which there are rows.
NAMESPACES: Final = "({})".format(
    " UNION ".join(f"SELECT namespace FROM {table.name}" for table in WALLED)
)


#: Removes of a role what it has found by a prefix that it has no more.
UNCOVERED: Final = (
    f"DELETE FROM {{table}} w WHERE CAST(w.role AS text) = CAST(:role AS text)"
    f" AND w.kind = '{FOUND}' AND NOT EXISTS (SELECT FROM {{table}} p"
    f" WHERE p.role = w.role AND p.kind = '{PREFIX}' AND starts_with(w.namespace, p.namespace))"
)


def remove(connection: Connection, facts: Facts, given: Collection[Grant]) -> int:
    """Remove grants, and return how many of them were there."""
    table = f"{facts.schema}.{WALL}"
    of_role = "CAST(w.role AS text) = CAST(:role AS text)"
    one = text(
        f"DELETE FROM {table} w WHERE {of_role} AND w.namespace = :namespace AND w.kind = :kind"
    )
    found = text(UNCOVERED.format(table=table))
    count = 0
    for grant in given:
        count += connection.execute(one, grant.row).rowcount
        connection.execute(found, {"role": grant.role})
    return count


def nobodys(connection: Connection, facts: Facts) -> list[str]:
    """Return the namespaces of which there are rows, and which no role has been granted."""
    query = (
        f"SELECT n.namespace FROM {NAMESPACES} n"
        f" WHERE NOT EXISTS (SELECT FROM {facts.schema}.{WALL} w"
        " JOIN pg_roles r ON r.rolname = w.role WHERE w.namespace = n.namespace"
        f" OR (w.kind = '{PREFIX}' AND starts_with(n.namespace, w.namespace))) ORDER BY 1"
    )
    return [str(one) for one in connection.execute(text(query)).scalars()]
