"""The wall between users of one PostgreSQL: a role has the rows of its own namespaces alone.

It is made of policies on the tables that have a namespace, a table that says which role has which
namespaces, and two functions. It is made by a command and not by a revision, since most databases
need none: see the design, invariant 11.

Whose rows they are is told by ``session_user``, the role that has logged in. No statement of a
client's changes that, and within a function of the owner's ``current_user`` is the owner. Each
policy compares the namespace with an array that is made once a statement: so it is a condition of
the index, and the rows of others are not even counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.exc import DBAPIError

from ...errors import ConfigurationError, RightMissing, SchemaMismatch
from ..engine.backend import backend_of, listed
from ..engine.url import describe, reason_of
from ..tables import METADATA, SESSIONS
from . import locks, migrating, overloads
from .rights import NEEDED, WALL_FUNCTIONS, WALL_TABLE

#: The name of the table of grants, and of the policy that confines.
WALL: Final = WALL_TABLE
#: The policy that lets the members of the group in, as far as the other one does not confine them.
MEMBERS: Final = "jupyter_session_store_members"
GROUP: Final = "jupyter_users"
IS_AMONG, IS_GRANTED = WALL_FUNCTIONS
#: The tables that it stands in.
WALLED: Final[tuple[Table, ...]] = tuple(
    table for table in METADATA.sorted_tables if "namespace" in table.columns
)
_MAKE: Final = "jupyter session-store wall --apply"

#: How a namespace came to a role: it was granted, all that begin so were granted, or it is one of
#: those, of which a row was written.
NAMESPACE: Final = "namespace"
PREFIX: Final = "prefix"
FOUND: Final = "found"

#: The comparison once more, as a function of which the planner believes that it costs next to
#: nothing: so it comes before all conditions of a statement that are compared row by row. After
#: one of those, it would tell by being called that there is such a row.
_IS_AMONG_BODY: Final = """
BEGIN
  RETURN wanted OPERATOR(pg_catalog.=) ANY (granted);
END
"""
#: What a role may write. The first row in a namespace of its user's makes that its own. The lock
#: lasts until the transaction ends: a revocation waits for it, and then finds what was entered.
_IS_GRANTED_BODY: Final = """
BEGIN
  IF EXISTS (
    SELECT FROM {schema}.{wall} w WHERE w.role = session_user AND w.namespace = wanted
  ) THEN
    RETURN true;
  END IF;
  PERFORM FROM {schema}.{wall} w WHERE w.role = session_user AND w.kind = 'prefix'
    AND starts_with(wanted, w.namespace) FOR KEY SHARE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  INSERT INTO {schema}.{wall} (role, namespace, kind) VALUES (session_user, wanted, 'found')
    ON CONFLICT DO NOTHING;
  RETURN true;
END
"""


@dataclass(frozen=True)
class Facts:
    """What the statements depend on; all names are as SQL writes them.

    `grants_admin`: the owner of the tables could not let roles into the group otherwise. `columns`
    are those that the tables have, which a newer release may know more of, and `retyped` those of
    which there are statistics, each with its type. `foreign` are policies of others on the table of
    grants, by which it would tell more.
    """

    schema: str
    owner: str
    group: str = GROUP
    has_group: bool = False
    grants_admin: bool = True
    public_creates: bool = True
    columns: tuple[tuple[str, str], ...] = tuple(
        (table.name, column.name) for table in WALLED for column in table.columns
    )
    retyped: tuple[tuple[str, str, str], ...] = ()
    foreign: tuple[str, ...] = ()

    def body(self, function: str) -> str:
        """Return the source of a function, as the database keeps it."""
        if function == IS_AMONG:
            return _IS_AMONG_BODY
        return _IS_GRANTED_BODY.format(schema=self.schema, wall=WALL)


@dataclass(frozen=True)
class Wall:
    """What there is of it in a database.

    `gaps` says in words what is not as it should be; without any, it stands.
    """

    facts: Facts
    exists: bool
    gaps: tuple[str, ...] = ()

    @property
    def stands(self) -> bool:
        """Whether it keeps roles apart."""
        return self.exists and not self.gaps


def statements(facts: Facts) -> list[str]:
    """Return the statements that make it; each can be repeated, but for that of the group."""
    schema, owner, group = facts.schema, facts.owner, facts.group
    made = [] if facts.has_group else [f"CREATE ROLE {group} NOLOGIN;"]
    if facts.grants_admin:
        made.append(f"GRANT {group} TO {owner} WITH ADMIN OPTION;")
    if facts.public_creates:
        made.append(f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;")
    made += [
        f"GRANT USAGE ON SCHEMA {schema} TO {group};",
        f"CREATE TABLE IF NOT EXISTS {schema}.{WALL} (\n"
        "  role name NOT NULL,\n"
        '  namespace varchar(255) COLLATE "C" NOT NULL,\n'
        "  kind varchar(9) NOT NULL,\n"
        f"  CONSTRAINT pk_{WALL} PRIMARY KEY (role, namespace, kind)\n"
        ");",
        f"ALTER TABLE {schema}.{WALL} OWNER TO {owner};",
        f"ALTER TABLE {schema}.{WALL} ENABLE ROW LEVEL SECURITY;",
        f"ALTER TABLE {schema}.{WALL} NO FORCE ROW LEVEL SECURITY;",
        f"ALTER TABLE {schema}.{WALL} ALTER COLUMN role SET STATISTICS 0,"
        " ALTER COLUMN namespace SET STATISTICS 0, ALTER COLUMN kind SET STATISTICS 0;",
        # Each sees what itself was granted. It also says which group it is, though all other
        # tables be gone.
        f"DROP POLICY IF EXISTS {MEMBERS} ON {schema}.{WALL};",
        f"CREATE POLICY {MEMBERS} ON {schema}.{WALL} FOR SELECT TO {group}\n"
        "  USING (role = session_user);",
        *(f"DROP POLICY {one} ON {schema}.{WALL};" for one in facts.foreign),
        # So a role that is in no group has no rows of the tables, instead of an error.
        f"GRANT SELECT ON {schema}.{WALL} TO PUBLIC;",
        *_function(facts, IS_AMONG),
        *_function(facts, IS_GRANTED),
    ]
    made += (one for table in WALLED for one in _policies(facts, table))
    for table_name, verbs in NEEDED.items():
        made.append(f"GRANT {', '.join(verbs)} ON {schema}.{table_name} TO {group};")
    return made


def script(facts: Facts) -> list[str]:
    """Return the statements for an administrator, all of which are done, or none."""
    return ["BEGIN;", *statements(facts), "COMMIT;"]


#: The arguments, what is returned, and how it is called.
_SIGNATURES: Final = {
    IS_AMONG: ("wanted text, granted text[]", "boolean", "IMMUTABLE PARALLEL SAFE COST 0.0001"),
    IS_GRANTED: (
        "wanted text",
        "boolean",
        "SECURITY DEFINER\n  SET search_path = pg_catalog, pg_temp",
    ),
}


def _function(facts: Facts, name: str) -> Iterator[str]:
    arguments, returned, how = _SIGNATURES[name]
    yield (
        f"CREATE OR REPLACE FUNCTION {facts.schema}.{name}({arguments}) RETURNS {returned}\n"
        f"  LANGUAGE plpgsql {how}\n"
        f"  AS $wall${facts.body(name)}$wall$;"
    )
    types = ", ".join(one.partition(" ")[2] for one in filter(None, arguments.split(", ")))
    yield f"ALTER FUNCTION {facts.schema}.{name}({types}) OWNER TO {facts.owner};"
    yield f"GRANT EXECUTE ON FUNCTION {facts.schema}.{name}({types}) TO PUBLIC;"


def _policies(facts: Facts, table: Table) -> Iterator[str]:
    schema = facts.schema
    where = f"{schema}.{table.name}"
    for policy in (WALL, MEMBERS):
        yield f"DROP POLICY IF EXISTS {policy} ON {where};"
    # EXPLAIN shows estimates, which are made of a sample of all rows. To give a column its own
    # type is the owner's way to forget what is known of it; nothing is rewritten.
    for of_table, column, kind in facts.retyped:
        if of_table == table.name:
            yield f"ALTER TABLE {where} ALTER COLUMN {column} TYPE {kind};"
    names = (column for of_table, column in facts.columns if of_table == table.name)
    targets = ", ".join(f"ALTER COLUMN {one} SET STATISTICS 0" for one in names)
    yield f"ALTER TABLE {where} {targets};"
    own = f"ARRAY(SELECT w.namespace::text FROM {schema}.{WALL} w WHERE w.role = session_user)"
    yield (
        f"CREATE POLICY {WALL} ON {where} AS RESTRICTIVE TO PUBLIC\n"
        f"  USING ({schema}.{IS_AMONG}(namespace, {own})\n"
        f"    AND namespace OPERATOR(pg_catalog.=) ANY ({own}))\n"
        f"  WITH CHECK (namespace OPERATOR(pg_catalog.=) ANY ({own})\n"
        f"    OR {schema}.{IS_GRANTED}(namespace));"
    )
    yield f"CREATE POLICY {MEMBERS} ON {where} TO {facts.group} USING (true);"
    yield f"ALTER TABLE {where} ENABLE ROW LEVEL SECURITY;"
    # Its own commands see nothing otherwise.
    yield f"ALTER TABLE {where} NO FORCE ROW LEVEL SECURITY;"


_FACTS: Final = f"""
SELECT quote_ident(n.nspname) AS schema, quote_ident(o.rolname) AS owner,
  me.rolsuper AS is_superuser,
  pg_has_role(c.relowner, 'USAGE') AS may_alter, c.relowner = me.oid AS is_owner,
  me.rolsuper OR me.rolcreaterole AS may_create_role,
  has_schema_privilege('public', n.oid, 'CREATE') AS public_creates,
  me.rolsuper OR pg_has_role(n.nspowner, 'USAGE') AS may_close_schema,
  EXISTS (SELECT FROM pg_class w WHERE w.relname = '{WALL}' AND w.relnamespace = n.oid) AS exists,
  EXISTS (SELECT FROM pg_class w WHERE w.relname = '{WALL}' AND w.relnamespace = n.oid
    AND w.relowner <> c.relowner) AS is_squatted,
  (SELECT min(CAST(g.rolname AS text)) FROM pg_policy p JOIN pg_roles g ON g.oid = ANY (p.polroles)
    JOIN pg_class w ON w.oid = p.polrelid
    WHERE w.relname = '{WALL}' AND w.relnamespace = n.oid AND p.polname = '{MEMBERS}') AS group
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner,
  pg_roles me
WHERE c.oid = to_regclass('{SESSIONS.name}') AND me.rolname = current_user
"""
_GROUP: Final = """
SELECT quote_ident(:group) AS group, g.oid IS NOT NULL AS has_group,
  coalesce(pg_has_role(o.oid, g.oid, 'USAGE WITH ADMIN OPTION') OR o.rolsuper, false) AS is_admin
FROM pg_roles o LEFT JOIN pg_roles g ON CAST(g.rolname AS text) = :group
WHERE quote_ident(o.rolname) = :owner
"""
_COLUMNS: Final = """
SELECT c.relname, quote_ident(a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.oid IN ({oids}) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, a.attnum
"""
_FOREIGN: Final = f"""
SELECT quote_ident(p.polname) FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = '{WALL}' AND quote_ident(n.nspname) = :schema AND p.polname <> '{MEMBERS}'
ORDER BY 1
"""
_RETYPED: Final = """
SELECT s.tablename, quote_ident(s.attname), format_type(a.atttypid, a.atttypmod)
  || CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || quote_ident(l.collname)
     ELSE '' END
FROM pg_stats s
  JOIN pg_attribute a ON a.attrelid = to_regclass(s.tablename) AND a.attname = s.attname
  JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE quote_ident(s.schemaname) = :schema AND s.tablename IN ({tables})
  AND NOT EXISTS (SELECT FROM pg_depend d LEFT JOIN pg_policy p ON p.oid = d.objid
    WHERE d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND (
      d.classid = CAST('pg_rewrite' AS regclass)
      OR d.classid = CAST('pg_policy' AS regclass) AND p.polname NOT IN ('{wall}', '{members}')))
ORDER BY 1, a.attnum
"""


def look(connection: Connection, group: str = "") -> Wall:
    """Return what there is of it, and what the statements depend on.

    `group` is the name of the group to make, which has to be that of the wall if there is one.
    Raises a SchemaMismatch where others have left what these, and later statements, would run.
    """
    overloads.refuse(connection)
    row = _one(connection, _FACTS)
    if group and row.group not in (None, group):
        raise ConfigurationError(
            f"The wall in {describe(connection.engine.url)} is for the members of {row.group!r}; "
            f"found --group {group}, expected that or none. Nothing was changed."
        )
    found = _one(connection, _GROUP, group=row.group or group or GROUP, owner=row.owner)
    tables = listed([table.name for table in WALLED])
    query = _RETYPED.format(tables=tables, wall=WALL, members=MEMBERS)
    retyped = connection.execute(text(query), {"schema": row.schema})
    oids = _oids([table.name for table in WALLED])
    columns = connection.execute(text(_COLUMNS.format(oids=oids)))
    facts = Facts(
        schema=row.schema,
        owner=row.owner,
        group=found.group,
        has_group=found.has_group,
        # Who makes a role may let others into it.
        grants_admin=not found.is_admin
        and not (row.is_owner and row.may_create_role and not found.has_group),
        public_creates=row.public_creates,
        columns=tuple((one[0], one[1]) for one in columns),
        retyped=tuple((one[0], one[1], one[2]) for one in retyped),
        foreign=tuple(connection.execute(text(_FOREIGN), {"schema": row.schema}).scalars()),
    )
    gaps = tuple(_gaps(connection, facts)) if row.exists else ()
    return Wall(facts, row.exists, gaps)


def exists(connection: Connection) -> bool:
    """Return whether a database has one, whole or not, even without the tables it is for."""
    if backend_of(connection).no_wall is not None:
        return False
    return bool(connection.exec_driver_sql(f"SELECT to_regclass('{WALL}') IS NOT NULL").scalar())


def _oids(names: Sequence[str]) -> str:
    return ", ".join(f"to_regclass('{name}')" for name in names)


def _one(connection: Connection, query: str, **values: str) -> Any:
    return connection.execute(text(query), values).one()


_TABLES: Final = """
SELECT c.relname AS name, quote_ident(o.rolname) = :owner AS is_owned, c.relrowsecurity AS has_rls,
  c.relforcerowsecurity AS is_forced,
  EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = :wall
    AND NOT p.polpermissive AND p.polcmd = '*' AND p.polroles = '{{0}}'
    AND strpos(pg_get_expr(p.polqual, p.polrelid), :is_among) > 0
    AND strpos(pg_get_expr(p.polqual, p.polrelid), :wall) > 0
    AND strpos(pg_get_expr(p.polqual, p.polrelid), ' OR ') = 0
    AND strpos(pg_get_expr(p.polwithcheck, p.polrelid), :is_granted) > 0) AS is_confined,
  EXISTS (SELECT FROM pg_policy p JOIN pg_roles g ON p.polroles = ARRAY[g.oid]
    WHERE p.polrelid = c.oid AND p.polname = :members AND p.polpermissive
    AND p.polcmd = CASE c.relname WHEN :wall THEN 'r' ELSE '*' END
    AND quote_ident(g.rolname) = :group) AS lets_in,
  EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
    AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) <> 0) AS is_sampled
FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner
WHERE c.oid IN ({oids}) ORDER BY 1
"""
_FUNCTIONS: Final = """
SELECT p.proname AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_roles o ON o.oid = p.proowner
WHERE quote_ident(n.nspname) = :schema AND quote_ident(o.rolname) = :owner
  AND p.proname = :name AND p.prosrc = :body
  AND p.prosecdef = :as_owner AND (p.procost < 1) = NOT :as_owner
  AND coalesce(array_to_string(p.proconfig, ';'), '') = :settings
"""
_GRANTED: Final = """
SELECT has_table_privilege(g.oid, to_regclass(:table), :verb)
  AND has_schema_privilege(g.oid, c.relnamespace, 'USAGE')
FROM pg_roles g, pg_class c
WHERE quote_ident(g.rolname) = :group AND c.oid = to_regclass(:table)
"""


def _gaps(connection: Connection, facts: Facts) -> Iterator[str]:
    """Yield what is not as :func:`statements` makes it."""
    oids = _oids([*(table.name for table in WALLED), WALL])
    values = {
        "owner": facts.owner,
        "group": facts.group,
        "wall": WALL,
        "members": MEMBERS,
        "is_among": f"{IS_AMONG}(",
        "is_granted": f"{IS_GRANTED}(",
    }
    for table in connection.execute(text(_TABLES.format(oids=oids)), values):
        if not table.is_owned:
            yield f"{table.name} is not {facts.owner}'s, as the other tables are"
        if not table.has_rls:
            yield f"row-level security is off for {table.name}"
        if table.is_forced:
            yield f"row-level security is forced upon the owner of {table.name}"
        if not table.lets_in:
            yield f"{table.name} lacks the policy {MEMBERS} for {facts.group}"
        if table.is_sampled:
            yield f"{table.name} has columns of which statistics may be made"
        if table.name == WALL:
            if facts.foreign:
                yield f"{WALL} has other policies ({', '.join(facts.foreign)})"
        elif not table.is_confined:
            yield f"{table.name} lacks the policy {WALL}"
    if facts.public_creates:
        yield f"everybody may create objects in the schema {facts.schema}, which others use"
    if facts.retyped:
        columns = ", ".join(f"{one[0]}.{one[1]}" for one in facts.retyped)
        yield f"there are statistics of columns ({columns})"
    for name in WALL_FUNCTIONS:
        as_owner = name == IS_GRANTED
        given = {
            "schema": facts.schema,
            "owner": facts.owner,
            "name": name,
            "body": facts.body(name),
            "as_owner": as_owner,
            "settings": "search_path=pg_catalog, pg_temp" if as_owner else "",
        }
        if not connection.execute(text(_FUNCTIONS), given).all():
            yield f"the function {name} is missing, or another"
    for table_name, verbs in {**NEEDED, WALL: ("SELECT",)}.items():
        for verb in verbs:
            asked = {"group": facts.group, "table": table_name, "verb": verb}
            if not connection.execute(text(_GRANTED), asked).scalar():
                yield f"{facts.group} lacks {verb} on {table_name}"


def refuse_if_unable(connection: Connection, facts: Facts) -> None:
    """Raise a RightMissing if this role may not make it: the text says which may."""
    row = _one(connection, _FACTS)
    database, role = describe(connection.engine.url), backend_of(connection).role(connection)
    if not (row.is_superuser or row.may_alter):
        raise RightMissing(
            f"The role {role} does not own the tables in {database}; expected {facts.owner}, or a "
            "superuser. Nothing was changed. Name its URL: --url env:NAME"
        )
    if row.is_squatted:
        raise SchemaMismatch(
            f"The table {WALL} in {database} is not {facts.owner}'s, as the others are, and may "
            "say anything; expected none, or one of its own. Nothing was changed. If it is "
            f"nobody's: DROP TABLE {facts.schema}.{WALL};"
        )
    needed = [] if facts.has_group else [f"CREATE ROLE {facts.group} NOLOGIN;"]
    if facts.grants_admin:
        needed.append(f"GRANT {facts.group} TO {facts.owner} WITH ADMIN OPTION;")
    needed = [] if row.may_create_role else needed
    if facts.public_creates and not row.may_close_schema:
        needed.append(f"REVOKE CREATE ON SCHEMA {facts.schema} FROM PUBLIC;")
    if needed:
        raise RightMissing(
            f"The role {role} may not do all that the wall in {database} needs; expected one that "
            "may. Nothing was changed. As a superuser, and then this command again: "
            + " ".join(needed)
        )


def make(engine: Engine, group: str = "", log: logging.Logger | None = None) -> Wall:
    """Make it, or what is missing of it, in one transaction, under the migration lock.

    Returns how it is then. Raises what :func:`.migrating.refusal` says.
    """
    if migrating.is_unlocked(engine):
        raise ConfigurationError(
            f"Between this process and {describe(engine.url)} is a pooler in transaction mode, "
            "through which the lock that keeps this and an upgrade apart does not hold; expected "
            "the server itself. Nothing was changed. Name it: --url env:DIRECT_URL"
        )
    try:
        with (
            migrating.migration_connection(engine) as connection,
            locks.migration_lock(connection, log=log),
        ):
            found = look(connection, group)
            if not found.stands:
                run(connection, statements(found.facts))
                connection.commit()
                found = look(connection)
            connection.rollback()
            return found
    except DBAPIError as error:
        raise migrating.refusal(error, engine.url) from error


def keep(connection: Connection, log: logging.Logger) -> None:
    """Put the wall of a database on what a migration has made anew; say so, or that it cannot.

    The connection has real transactions, and the migration lock.
    """
    if not exists(connection):
        connection.rollback()
        return
    database = describe(connection.engine.url)
    try:
        # Not where a downgrade has left no tables to stand in.
        if connection.exec_driver_sql(f"SELECT to_regclass('{SESSIONS.name}')").scalar() is None:
            found = None
        else:
            found = look(connection)
        if found is None or found.stands:
            connection.rollback()
            return
        run(connection, statements(found.facts))
        connection.commit()
        left = look(connection).gaps
        connection.rollback()
    except DBAPIError as error:
        connection.rollback()
        reason = reason_of(error, connection.engine.url)
        log.warning(
            "The wall between users of %s has gaps since this change of the schema, and could not "
            "be mended (%s). Run: " + _MAKE,
            database,
            reason,
        )
        return
    except SchemaMismatch as error:
        connection.rollback()
        log.warning("The wall between users of %s was not looked at. %s", database, error)
        return
    if left:
        log.warning(
            "The wall between users of %s has gaps since this change of the schema: %s. Run: "
            "jupyter session-store wall check",
            database,
            "; ".join(left),
        )
    else:
        log.info("The wall between users of %s stands on the new tables, too.", database)


def run(connection: Connection, todo: Sequence[str]) -> None:
    """Run statements, in which a ``%`` is part of a name."""
    for statement in todo:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
