"""Whether the wall between users stands, on which side of it a role is, and what is beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from shlex import quote
from typing import Final

from sqlalchemy import Connection, text

from ..engine.backend import backend_of
from ..schema import overloads
from ..schema import tenants as schema_tenants
from ..schema import wall as schema_wall
from ..schema.overloads import Overload
from ..schema.rights import NEEDED
from ..schema.versions import VERSION_TABLE
from ..schema.wall import WALL, WALLED, Wall
from ..tables import METADATA, SESSIONS
from .findings import Outcome, failed, ok, warning

#: How many names a sentence lists.
_NAMED: Final = 5
_MAKE: Final = "jupyter session-store wall --apply"
#: All that a user behind the wall must not change by hand.
_OURS: Final = (*METADATA.tables, VERSION_TABLE, WALL)

#: Of the table of grants, whoever may read it sees its own.
_ALLOWED: Final = {**NEEDED, WALL: ("SELECT",)}

_OWN_SIDE: Final = f"""
SELECT row_security_active(c.oid) AS is_confined, me.rolsuper, me.rolbypassrls
FROM pg_class c, pg_roles me WHERE c.oid = to_regclass('{SESSIONS.name}')
  AND me.rolname = current_user
"""


def own_side(connection: Connection) -> Outcome:
    """Judge whether the wall stands, and whether this role goes round it."""
    if not schema_wall.exists(connection):
        return ok("None: a role that may read the tables has all rows.")
    if found_overloads := overloads.find(connection):
        return _overloads(found_overloads)
    found = schema_wall.look(connection)
    if found.gaps:
        return _gaps(found)
    role = backend_of(connection).role(connection)
    side = connection.execute(text(_OWN_SIDE)).one()
    if not side.is_confined:
        why = "owns the tables, or is a member of the role that does"
        if side.rolsuper or side.rolbypassrls:
            why = "is a superuser" if side.rolsuper else "has BYPASSRLS"
        return warning(
            f"It stands, and {role} goes round it: it {why}. An operator has to, and no server.",
            "Give servers the URL of a role with a grant: jupyter session-store wall grant "
            "NAMESPACE --role ROLE",
        )
    own = f"SELECT count(DISTINCT namespace) FROM {found.facts.schema}.{WALL}"
    count = connection.exec_driver_sql(own, execution_options=_PLAIN).scalar_one()
    if not count:
        return failed(
            f"It stands, and {role} has been granted no namespace: it sees no rows, and may write "
            "none. Expected that a server's role has its namespace.",
            f"jupyter session-store wall grant NAMESPACE --role {role}",
        )
    return ok(f"It stands. Namespaces of {role}: {count}.")


#: A percent sign in a name is none of a parameter.
_PLAIN: Final = {"no_parameters": True}


def _stands(connection: Connection) -> Outcome:
    """Judge whether it is all there."""
    if found_overloads := overloads.find(connection):
        return _overloads(found_overloads)
    found = schema_wall.look(connection)
    if not found.exists:
        return failed("There is none; expected one.", _MAKE)
    if found.gaps:
        return _gaps(found)
    return ok(f"It stands, for the members of {found.facts.group}.")


def _overloads(found: Sequence[Overload]) -> Outcome:
    return failed(
        f"Others have made what statements would run in the place of PostgreSQL's own: "
        f"{overloads.say(found)}. Expected none.",
        *(one.cure for one in found),
    )


def _gaps(found: Wall) -> Outcome:
    return failed(f"It has gaps: {'; '.join(found.gaps)}. Expected none.", _MAKE)


_RIGHTS: Final = """
SELECT c.relname AS table, a.privilege_type AS verb,
  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS role
FROM pg_class c, LATERAL (
  SELECT * FROM aclexplode(c.relacl)
  UNION SELECT x.* FROM pg_attribute t, LATERAL aclexplode(t.attacl) x WHERE t.attrelid = c.oid
) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE c.oid IN ({oids}) AND a.grantee <> c.relowner AND NOT coalesce(r.rolsuper, false)
GROUP BY 1, 2, 3 ORDER BY 1, 3, 2
"""


def _rights(connection: Connection) -> Outcome:
    """Look for rights that go round policies (TRUNCATE, REFERENCES, TRIGGER), and needless ones."""
    facts = schema_wall.look(connection).facts
    rows = connection.execute(text(_RIGHTS.format(oids=_oids(_OURS))))
    excess: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row.verb not in _ALLOWED.get(row.table, ()):
            excess[row.table, row.role].append(row.verb)
    if not excess:
        return ok("Nobody but the owner has more than servers need.")
    said = _some(
        [f"{role} has {', '.join(verbs)} on {table}" for (table, role), verbs in excess.items()]
    )
    return failed(
        f"{said}. Expected no more than servers need: policies do not hold for all of it.",
        *(
            f"REVOKE {', '.join(verbs)} ON {facts.schema}.{table} FROM {role};"
            for (table, role), verbs in excess.items()
        ),
    )


def _schemas(connection: Connection) -> Outcome:
    """Look for roles that can make what others would find in the place of ours."""
    facts = schema_wall.look(connection).facts
    behind = schema_tenants.tenants(connection, facts).values()
    names = [("public", "PUBLIC"), *((one.name, one.quoted) for one in behind)]
    others = [one.name for one in behind]
    found: list[str] = []
    cures: list[str] = []
    query = text(
        "SELECT quote_ident(n.nspname) FROM pg_namespace n"
        " WHERE (quote_ident(n.nspname) = :schema OR n.nspname = 'public'"
        # A role looks first in the schema of its name.
        " OR n.nspname = ANY (CAST(:others AS name[])) AND n.nspname <> CAST(:role AS name))"
        " AND has_schema_privilege(:role, n.oid, 'CREATE') ORDER BY 1"
    )
    database = text(
        "SELECT quote_ident(current_database()) WHERE"
        " has_database_privilege(:role, current_database(), 'CREATE')"
    )
    for name, quoted in names:
        role = {"role": name}
        in_schemas = {**role, "schema": facts.schema, "others": others}
        for kind, asked, values in (("SCHEMA", query, in_schemas), ("DATABASE", database, role)):
            for where in connection.execute(asked, values).scalars():
                found.append(f"{quoted} may create in the {kind.lower()} {where}")
                cures.append(f"REVOKE CREATE ON {kind} {where} FROM {quoted};")
        if name == "public" and found:
            # Each has what all have.
            break
    if not found:
        return ok("No role behind the wall may create anything where others look for it.")
    return failed(
        f"{_some(found)}. Expected that none may: a function or an operator that is made there "
        "runs as whoever finds it.",
        *cures,
    )


_VIEWS: Final = """
SELECT DISTINCT CAST(CAST(v.oid AS regclass) AS text) FROM pg_depend d
  JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
WHERE d.classid = CAST('pg_rewrite' AS regclass) AND d.refclassid = CAST('pg_class' AS regclass)
  AND d.refobjid IN ({oids}) AND v.relkind IN ('v', 'm')
  AND NOT coalesce(v.reloptions && ARRAY['security_invoker=true', 'security_invoker=on',
    'security_invoker=1'], false)
  AND EXISTS (SELECT FROM aclexplode(v.relacl) a WHERE a.grantee <> v.relowner)
ORDER BY 1
"""
_TRIGGERS: Final = """
SELECT quote_ident(t.tgname) || ' on ' || CAST(CAST(t.tgrelid AS regclass) AS text)
FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgrelid IN ({oids})
ORDER BY 1
"""


def _views(connection: Connection) -> Outcome:
    """Look for views, which show the rows that their owner sees, and for triggers of others."""
    facts = schema_wall.look(connection).facts
    oids = _oids([table.name for table in WALLED] + [WALL])
    views = [str(one) for one in connection.execute(text(_VIEWS.format(oids=oids))).scalars()]
    triggers = [str(one) for one in connection.execute(text(_TRIGGERS.format(oids=oids))).scalars()]
    if not views and not triggers:
        return ok("None of others that show rows, and no triggers.")
    parts = [f"{one} shows what its owner sees" for one in views]
    parts += [f"the trigger {one} is none of this package's" for one in triggers]
    return warning(
        f"{_some(parts)}. Expected that only operators may read such a view, or that it has "
        "security_invoker.",
        *(f"REVOKE ALL ON {one} FROM PUBLIC, {facts.group};" for one in views),
        *(f"DROP TRIGGER {one};" for one in triggers),
    )


def _roles(connection: Connection) -> Outcome:
    """Look for roles behind the wall that go round it."""
    behind = schema_tenants.tenants(connection, schema_wall.look(connection).facts)
    round_it = [one for one in behind.values() if one.detour is not None]
    if not round_it:
        return ok("None that is behind the wall goes round it.")
    said = _some([f"{one.quoted} {one.detour}" for one in round_it])
    return failed(
        f"Roles that go round the wall: {said}. Expected none.",
        *(one.cure for one in round_it if one.cure is not None),
    )


def _grants(connection: Connection) -> Outcome:
    """Compare what was granted with the roles and the namespaces that there are."""
    facts = schema_wall.look(connection).facts
    behind = schema_tenants.tenants(connection, facts)
    granted = schema_tenants.grants(connection, facts)
    roles = {one.role for one in granted}
    gone = sorted({one.role for one in granted if not one.is_there})
    outside = sorted(name for name in roles - {*gone} if not behind[name].is_member)
    without = [one for one in behind.values() if one.may_log_in and one.name not in roles]
    nobodys = schema_tenants.nobodys(connection, facts)
    parts = {
        "roles that are not there have grants": _some([repr(one) for one in gone]),
        "roles with grants are not in the group": _some([repr(one) for one in outside]),
        "members of the group have no grant, and see nothing": _some(
            [one.quoted for one in without]
        ),
        "namespaces are no role's, and only operators see their rows": _some(
            [repr(one) for one in nobodys]
        ),
    }
    faults = "; ".join(f"{what} ({names})" for what, names in parts.items() if names)
    count = f"Roles: {len(roles)}. Grants: {len(granted)}."
    if not faults:
        return ok(count)
    return warning(
        f"{count} But {faults}.",
        *(f"jupyter session-store wall revoke --role {one}" for one in map(quote, gone)),
        *(f"GRANT {facts.group} TO {behind[one].quoted};" for one in outside),
        *(
            ["For each: jupyter session-store wall grant NAMESPACE --role ROLE"]
            if without or nobodys
            else []
        ),
    )


def _oids(tables: Sequence[str]) -> str:
    return ", ".join(f"to_regclass('{name}')" for name in tables)


def _some(names: Sequence[str]) -> str:
    """Return some names in words, and how many more there are."""
    more = len(names) - _NAMED
    return f"{', '.join(names[:_NAMED])}{f' and {more} more' if more > 0 else ''}"


#: What is examined of it, in order, as the owner of the tables sees it; without one, the first.
EXAMINATIONS: Final[Mapping[str, Callable[[Connection], Outcome]]] = {
    "wall": _stands,
    "rights": _rights,
    "schemas": _schemas,
    "views": _views,
    "roles": _roles,
    "grants": _grants,
}
