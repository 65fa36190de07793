"""Letting a role have namespaces behind the wall, and no longer."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, text

from ...errors import ConfigurationError, SchemaMismatch, SessionStoreError
from ..engine.transactions import transaction
from ..engine.url import describe
from ..models import SESSIONS
from ..schema import tenants, wall
from ..schema.tenants import Grant, Tenant


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
    """Do what was planned, all of it or nothing; return how many namespaces were removed."""
    with transaction(connection):
        count = tenants.remove(connection, plan.facts, plan.changed)
        wall.run(connection, [plan.statement] if plan.statement else [])
        return count


def _require_wall(connection: Connection, *, whole: bool = False) -> wall.Facts:
    found = wall.look(connection)
    database = describe(connection.engine.url)
    if not found.exists:
        raise SchemaMismatch(
            f"There is no wall between users in {database}; expected one. Nothing was changed. "
            "Run: jupyter session-store wall --apply"
        )
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
        f"{connection.dialect.identifier_preparer.quote(role)} LOGIN PASSWORD '...';"
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
