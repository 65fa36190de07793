"""What becomes of the grants behind the wall when a namespace gets another name, or goes.

With another name a grant goes along, in the same unit of work, so that the role finds the rows
where they are now. But nobody gets what is another's, or may be: a new name that another role was
granted, or of which there are rows already. When the rows go, the grants stay.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from ...errors import InvalidValue
from ...records import check_text
from ..schema import wall
from ..schema.tenants import NAMESPACES, UNCOVERED, Grant
from ..schema.wall import FOUND, NAMESPACE, PREFIX, WALL


class Heir(NamedTuple):
    """A role, what it was granted, and what it is to have in its place.

    `obstacle` says in words why it does not get that; then nothing of it is changed.
    """

    role: str
    old: Grant
    new: Grant
    obstacle: str | None = None


#: What begins so gets another beginning: that of a user's namespaces, of which a role may have all.
Prefixes = tuple[str, str]

_RELEVANT: Final = f"""
SELECT CAST(w.role AS text), w.namespace, w.kind FROM {WALL} w
WHERE w.namespace IN (:old, :new) OR w.kind = '{PREFIX}'
  AND (starts_with(:old, w.namespace) OR starts_with(:new, w.namespace))
ORDER BY 1, 3 DESC, 2
"""
_PREFIXES: Final = f"""
SELECT CAST(w.role AS text), w.namespace, w.kind FROM {WALL} w
WHERE w.kind = '{PREFIX}' AND starts_with(w.namespace, :old) ORDER BY 1, 2
"""
#: By a grant of its own, and not by one that covers the old name too, or came along from it.
_TAKEN: Final = f"""
SELECT CAST(w.role AS text) FROM {WALL} w
WHERE (w.namespace = :name
  OR w.kind = '{PREFIX}' AND starts_with(:name, w.namespace)
  OR :is_prefix AND starts_with(w.namespace, :name))
AND CAST(w.role AS text) <> :role
AND NOT (CAST(w.role AS text) = ANY (CAST(:heirs AS text[])) AND (w.kind = '{FOUND}'
  OR w.kind = '{PREFIX}' AND (starts_with(:old, w.namespace) OR w.namespace = :inherited)))
ORDER BY 1 LIMIT 1
"""
_USED: Final = f"""
SELECT EXISTS (SELECT FROM {NAMESPACES} n
  WHERE n.namespace = :name OR :is_prefix AND starts_with(n.namespace, :name))
"""
#: Whether all that is granted is seen, and whether it may be changed.
_MAY: Final = f"""
SELECT NOT row_security_active(c.oid),
  has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'DELETE')
FROM pg_class c WHERE c.oid = to_regclass('{WALL}')
"""


def of_namespace(
    connection: Connection, old: str, new: str, prefixes: Prefixes | None = None
) -> list[Heir]:
    """Return the roles that have a namespace, each with what it is to have of the new name."""
    if not _sees_all(connection):
        return []
    rows = connection.execute(text(_RELEVANT), {"old": old, "new": new}).all()
    # A grant of its own comes before what a prefix covers.
    had = {role: FOUND for role, name, kind in rows if kind == PREFIX and old.startswith(name)}
    had |= {role: kind for role, name, kind in rows if name == old and kind == NAMESPACE}
    heirs = []
    for role, kind in sorted(had.items()):
        own = [
            Grant(role, name, one == PREFIX)
            for of, name, one in rows
            if of == role and one != FOUND
        ]
        mine = Grant(role, old, False)
        covering = next((one for one in own if _covers(one, new)), None)
        if covering is not None:
            heirs.append(Heir(role, mine, covering, _refusal(connection)))
            continue
        target = Grant(role, new, False)
        if kind == FOUND and prefixes is not None:
            whole = next((one for one in own if one.is_prefix and _covers(one, old)), None)
            target = (whole and _renamed(whole, prefixes)) or target
        heirs.append(Heir(role, mine, target, _obstacle(connection, mine, target, had, prefixes)))
    return heirs


def of_prefix(connection: Connection, prefixes: Prefixes) -> list[Heir]:
    """Return the roles that have all that begins so, each with what it is to have instead."""
    if not _sees_all(connection):
        return []
    old, _ = prefixes
    given = [Grant(role, name, True) for role, name, _ in _rows(connection, _PREFIXES, old=old)]
    heirs = []
    for grant in given:
        target = _renamed(grant, prefixes)
        if target is None:
            # Each of the new names is a digest, and was granted by itself.
            heirs.append(Heir(grant.role, grant, grant, "the new name would be too long"))
            continue
        rows = _rows(connection, _RELEVANT, old=target.namespace, new=target.namespace)
        has = any(role == grant.role and kind == PREFIX for role, _, kind in rows)
        beside = [one.role for one in given if one.namespace == grant.namespace]
        obstacle = _refusal(connection) if has else _obstacle(connection, grant, target, beside)
        heirs.append(Heir(grant.role, grant, target, obstacle))
    return heirs


def follow(connection: Connection, heirs: Collection[Heir], new: str | None = None) -> None:
    """Change what is granted, in the transaction that is open; `new` is a namespace's new name."""
    for heir in heirs:
        if heir.obstacle is not None:
            continue
        _add(connection, heir.new)
        if new is not None and heir.new.is_prefix:
            _insert(connection, heir.role, new, FOUND)
        _remove(connection, heir.old)


def left(connection: Connection, namespaces: Collection[str]) -> list[Grant]:
    """Return what was granted of namespaces whose rows are gone."""
    if not namespaces or not _sees_all(connection):
        return []
    query = (
        f"SELECT CAST(w.role AS text), w.namespace, w.kind FROM {WALL} w"
        f" WHERE w.kind <> '{FOUND}' AND EXISTS (SELECT FROM unnest(CAST(:names AS text[])) n"
        f" WHERE n = w.namespace OR w.kind = '{PREFIX}' AND starts_with(n, w.namespace))"
        " ORDER BY 1, 2, 3"
    )
    rows = connection.execute(text(query), {"names": [*namespaces]})
    return [Grant(role, name, kind == PREFIX) for role, name, kind in rows]


def _sees_all(connection: Connection) -> bool:
    """Return whether there is a wall, and this role is not behind it."""
    return wall.exists(connection) and bool(connection.exec_driver_sql(_MAY).one()[0])


def _rows(connection: Connection, query: str, **values: str) -> list[Any]:
    return list(connection.execute(text(query), values))


def _covers(grant: Grant, namespace: str) -> bool:
    return (
        namespace.startswith(grant.namespace) if grant.is_prefix else namespace == grant.namespace
    )


def _renamed(grant: Grant, prefixes: Prefixes) -> Grant | None:
    """Return the grant with another beginning; ``None`` if it begins otherwise, or is too long."""
    old, new = prefixes
    if not grant.namespace.startswith(old):
        return None
    name = new + grant.namespace.removeprefix(old)
    try:
        check_text("namespace", name)
    except InvalidValue:
        return None
    return Grant(grant.role, name, grant.is_prefix)


def _refusal(connection: Connection) -> str | None:
    """Return why nothing of what is granted can be changed."""
    if connection.exec_driver_sql(_MAY).one()[1]:
        return None
    return "this role may not change what is granted"


def _obstacle(
    connection: Connection,
    old: Grant,
    target: Grant,
    heirs: Collection[str],
    prefixes: Prefixes | None = None,
) -> str | None:
    """Return why a role does not get what is the `target` in the place of the old grant."""
    if refusal := _refusal(connection):
        return refusal
    # An heir that has all of the user's namespaces has got those of the new name already.
    inherited = "" if prefixes is None or target.is_prefix else prefixes[1]
    values = {"name": target.namespace, "is_prefix": target.is_prefix}
    more = {"role": old.role, "old": old.namespace, "heirs": [*heirs], "inherited": inherited}
    taken = connection.execute(text(_TAKEN), {**values, **more}).scalar()
    if taken is not None:
        return f"the role {taken!r} was granted it"
    if connection.execute(text(_USED), values).scalar():
        return "there are rows of it already"
    return None


def _add(connection: Connection, grant: Grant) -> None:
    _insert(connection, grant.role, grant.namespace, PREFIX if grant.is_prefix else NAMESPACE)


def _insert(connection: Connection, role: str, namespace: str, kind: str) -> None:
    statement = f"INSERT INTO {WALL} VALUES (:role, :namespace, :kind) ON CONFLICT DO NOTHING"
    values = {"role": role, "namespace": namespace, "kind": kind}
    connection.execute(text(statement), values)


def _remove(connection: Connection, grant: Grant) -> None:
    """Remove a grant, and the rows of its role that were found by it."""
    kinds = f"w.kind = '{PREFIX}'" if grant.is_prefix else f"w.kind <> '{PREFIX}'"
    given = f"DELETE FROM {WALL} w WHERE CAST(w.role AS text) = :role AND w.namespace = :namespace"
    values = {"role": grant.role, "namespace": grant.namespace}
    connection.execute(text(f"{given} AND {kinds}"), values)
    if grant.is_prefix:
        connection.execute(text(UNCOVERED.format(table=WALL)), {"role": grant.role})
