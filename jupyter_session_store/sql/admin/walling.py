"""Letting a role have namespaces behind the wall, and no longer."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ...errors import (
    ConfigurationError,
    RightMissing,
    SchemaMismatch,
    SessionStoreError,
    StoreUnavailable,
)
from ..engine.backend import backend_of, quote_name
from ..engine.timeouts import BUSY_TIMEOUT
from ..engine.transactions import transaction
from ..engine.url import describe
from ..schema import tenants, wall
from ..schema.tenants import Grant, Tenant
from ..tables import SESSIONS


class NoSuchRole(SessionStoreError):
    """There is no role of that name."""


class Plan(NamedTuple):
    """What a grant or a revocation would do: the grants, and the statement for the group."""

    facts: wall.Facts
    role: str
    changed: list[Grant]
    statement: str | None


def plan_grant(connection: Connection, role: str, wanted: Collection[Grant]) -> Plan:
    """Return what would be added.

    Raises a NoSuchRole, a SchemaMismatch where no wall stands, or a ConfigurationError if the
    role would go round it.
    """
    facts = _require_wall(connection, whole=True)
    found = tenants.find(connection, facts, role)
    if found is None:
        raise NoSuchRole(_missing(connection, role))
    _refuse_detour(connection, facts, found)
    if not found.may_log_in:
        raise ConfigurationError(
            f"The role {role!r} may not log in, and the wall goes by the role that has logged in; "
            "expected one that may. Nothing was changed. Name the roles of its members one by "
            f"one, or: ALTER ROLE {found.quoted} LOGIN;"
        )
    there = _grants_of(connection, facts, role)
    new = [one for one in wanted if (one.namespace, one.is_prefix) not in there]
    statement = None if found.is_member else f"GRANT {facts.group} TO {found.quoted};"
    return Plan(facts, role, new, statement)


def plan_revocation(connection: Connection, role: str, unwanted: Collection[Grant] | None) -> Plan:
    """Return what would be removed; ``None`` is all that the role has.

    A role without grants leaves the group. Raises a SchemaMismatch where there is no wall.
    """
    facts = _require_wall(connection)
    there = _grants_of(connection, facts, role)
    keys = set(there)
    if unwanted is not None:
        keys &= {(one.namespace, one.is_prefix) for one in unwanted}
    going = [one for key, one in there.items() if key in keys]
    found = tenants.find(connection, facts, role)
    leaves = found is not None and found.is_member and len(going) == len(there)
    statement = None
    if found is not None and leaves and (going or unwanted is None):
        statement = f"REVOKE {facts.group} FROM {found.quoted};"
    return Plan(facts, role, going, statement)


def grant(connection: Connection, plan: Plan) -> int:
    """Do what was planned, all of it or nothing; return how many namespaces were added."""
    with transaction(connection):
        count = tenants.add(connection, plan.facts, plan.changed)
        wall.run(connection, [plan.statement] if plan.statement else [])
        found = tenants.find(connection, plan.facts, plan.role)
        if found is None or not found.is_member:
            raise NoSuchRole(_missing(connection, plan.role))
        # Another may have made it a superuser meanwhile.
        _refuse_detour(connection, plan.facts, found)
        _refuse_without_rights(connection, found)
        return count


def revoke(connection: Connection, plan: Plan) -> int:
    """Do what was planned, all of it or nothing; return how many namespaces were removed.

    Raises a StoreUnavailable while the role has a transaction open that has entered a namespace:
    what it has entered is only seen, and removed, when that has ended.
    """
    limit = backend_of(connection).lock_wait_limit
    try:
        with transaction(connection):
            wall.run(connection, [limit] if limit else [])
            count = tenants.remove(connection, plan.facts, plan.changed)
            wall.run(connection, [plan.statement] if plan.statement else [])
            return count
    except DBAPIError as error:
        if not backend_of(connection).is_lock_timeout(error):
            raise
        name = plan.role.replace("'", "''")
        raise StoreUnavailable(
            f"the role {plan.role!r} has had a transaction open in "
            f"{describe(connection.engine.url)} for {BUSY_TIMEOUT} s, in which it has entered a "
            "namespace; expected that it ends. Nothing was changed. End it, and run this again: "
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}';"
        ) from error


def still_had(connection: Connection, plan: Plan, unwanted: Collection[Grant]) -> list[Grant]:
    """Return the grants by which a role still has something that it should have no more."""
    gone = {(one.namespace, one.is_prefix) for one in plan.changed}
    there = _grants_of(connection, plan.facts, plan.role)
    left = [one for key, one in there.items() if key not in gone]
    return [one for one in left if any(_covers(one, it) or _covers(it, one) for it in unwanted)]


def _covers(one: Grant, other: Grant) -> bool:
    """Return whether all that the other is of is among the one."""
    if one.is_prefix:
        return other.namespace.startswith(one.namespace)
    return one.namespace == other.namespace and not other.is_prefix


def is_member(connection: Connection, plan: Plan) -> bool:
    """Return whether the role is in the group: who has let it in may be another than this role."""
    found = tenants.find(connection, plan.facts, plan.role)
    return found is not None and found.is_member


def is_confined(connection: Connection) -> bool:
    """Return whether this role sees its own rows alone, and not what others have."""
    if not wall.exists(connection):
        return False
    query = (
        "SELECT row_security_active(c.oid) AND NOT pg_has_role(c.relowner, 'USAGE')"
        f" FROM pg_class c WHERE c.oid = to_regclass('{SESSIONS.name}')"
    )
    return bool(connection.exec_driver_sql(query).scalar())


def refuse_if_confined(connection: Connection) -> None:
    """Raise a RightMissing where :func:`is_confined` holds."""
    if is_confined(connection):
        role = backend_of(connection).role(connection)
        raise RightMissing(
            f"The role {role} is behind the wall in {describe(connection.engine.url)}, and sees "
            "nothing of what others were granted; expected the owner of the tables, or a "
            "superuser. Nothing was changed. Name its URL: --url env:NAME"
        )


def _require_wall(connection: Connection, *, whole: bool = False) -> wall.Facts:
    found = wall.look(connection)
    database = describe(connection.engine.url)
    if not found.exists:
        raise SchemaMismatch(
            f"There is no wall between users in {database}; expected one. Nothing was changed. "
            "Run: jupyter session-store wall --apply"
        )
    refuse_if_confined(connection)
    if whole and found.gaps:
        raise SchemaMismatch(
            f"The wall between users in {database} has gaps, through which the role would see "
            f"other rows: {'; '.join(found.gaps)}. Nothing was changed. Run: jupyter session-store "
            "wall --apply"
        )
    return found.facts


def _grants_of(
    connection: Connection, facts: wall.Facts, role: str
) -> dict[tuple[str, bool], Grant]:
    all_grants = tenants.grants(connection, facts)
    return {(one.namespace, one.is_prefix): one for one in all_grants if one.role == role}


def _missing(connection: Connection, role: str) -> str:
    return (
        f"There is no role {role!r} in {describe(connection.engine.url)}; expected one that may "
        "log in. Nothing was changed. As a superuser: CREATE ROLE "
        f"{quote_name(connection.dialect, role)} LOGIN PASSWORD '...';"
    )


def _refuse_without_rights(connection: Connection, found: Tenant) -> None:
    query = f"SELECT has_table_privilege(:role, '{SESSIONS.name}', 'SELECT')"
    if not connection.execute(text(query), {"role": found.name}).scalar():
        raise ConfigurationError(
            f"The role {found.name!r} inherits nothing from the group; expected that it inherits. "
            f"Nothing was changed. ALTER ROLE {found.quoted} INHERIT; and then this command again."
        )


def _refuse_detour(connection: Connection, facts: wall.Facts, found: Tenant) -> None:
    if found.detour is not None:
        raise ConfigurationError(
            f"The role {found.name!r} goes round the wall in {describe(connection.engine.url)}: it "
            f"{found.detour}; expected a role that does not. Nothing was changed. "
            + (found.cure or f"Name another than {facts.owner}.")
        )
