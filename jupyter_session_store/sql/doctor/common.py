"""What is examined on every database."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from typing import Any, Final

import sqlalchemy
from sqlalchemy import Connection, Engine, distinct, func, select

from ..._version import __version__
from ..engine.backend import backend_of
from ..engine.url import describe
from ..queries.authorities import UNKNOWN_AUTHORITY, UNKNOWN_AUTHORITY_TEXT
from ..schema import keys as schema_keys
from ..schema import versions
from ..schema.rights import grants, lacking
from ..tables import SERVERS, SESSIONS, to_utc
from .findings import Outcome, failed, ok, unknown, warning

#: Seconds that the clocks of a database and of this machine may differ.
_SKEW: Final = 60
#: The part of a server's connections that may be in use.
_CROWDED: Final = 0.8


def database(engine: Engine) -> Outcome:
    """Say which it is."""
    return ok(f"{describe(engine.url)}.")


def packages(_engine: Engine) -> Outcome:
    """Say what this process runs."""
    return ok(
        f"jupyter_session_store {__version__}, SQLAlchemy {sqlalchemy.__version__}, "
        f"Alembic {version('alembic')}, Python {platform.python_version()}."
    )


def driver(engine: Engine) -> Outcome:
    """Say by what it is spoken to."""
    used = backend_of(engine).driver
    release = None
    with suppress(PackageNotFoundError):
        # Not the module's own word, which may be that of the driver whose place it takes.
        release = version(used.distribution)
    return ok(f"{used.describe(engine.dialect.dbapi, release)}.")


def server(connection: Connection) -> Outcome:
    """Judge the release of the server."""
    dialect: Any = connection.dialect
    backend = backend_of(connection)
    title = backend.title
    # What follows is the maker's or the packager's.
    found = tuple(dialect.server_version_info or ())[:3]
    if not found:
        return unknown(f"{title}, which does not say its version.")
    text = f"{title} {_dotted(found)}"
    oldest = backend.oldest_release
    if oldest is None or found >= oldest:
        return ok(f"{text}.")
    return warning(
        f"{text}; expected {_dotted(oldest)} or later.",
        f"Upgrade the server to {title} {_dotted(oldest)} or later.",
    )


def _dotted(numbers: Sequence[Any]) -> str:
    return ".".join(map(str, numbers))


def revision(found: versions.Status, name: str) -> Outcome:
    """Judge how the schema stands to this code."""
    if found.state is versions.State.CURRENT:
        return ok(f"{found.revision}, the newest.")
    explained = versions.explain(found, name)
    if found.usable:
        return ok(explained)
    text, cure = _CURE.split(explained, maxsplit=1)
    if found.state is versions.State.DAMAGED:
        return failed(text, *versions.mend_damage(found), f"If it is not yours, {versions.ANOTHER}")
    return failed(text, cure.splitlines()[0])


#: Where an explanation turns to what mends it.
_CURE: Final = re.compile(r"(?<=\.) (?:Run: |Nothing was changed\. )")


def keys(connection: Connection) -> Outcome:
    """Compare the keys and indexes with those of this code's revision."""
    lacks = schema_keys.lacking(connection)
    if not lacks:
        return ok("All keys and indexes are there.")
    text = f"Missing: {', '.join(lack.text for lack in lacks)}"
    cure = [lack.cure for lack in lacks]
    if not any(lack.is_key for lack in lacks):
        return warning(f"{text}; expected that statements do not read whole tables.", *cure)
    return failed(
        f"{text}; expected that the database refuses a second session at a path, and a second row "
        "of one id. Where it has such rows already, delete them first.",
        *cure,
    )


def rights(connection: Connection) -> Outcome:
    """Try what servers do to each table, on no row of it."""
    lacks = lacking(connection)
    if not lacks:
        return ok("All that servers need: SELECT, INSERT, UPDATE and DELETE.")
    name = backend_of(connection).role(connection)
    found = "; ".join(f"{', '.join(verbs)} on {table}" for table, verbs in lacks.items())
    return failed(f"{name} may not {found}; expected that servers may.", *grants(connection, lacks))


def schema_rights(may: bool | None, found: versions.Status) -> Outcome:
    """Judge what a role may do to the schema; ``None``: whether it may change it cannot be told."""
    if may:
        return ok("The role may create and change the tables.")
    if may is None:
        return unknown("The role has been given none by itself; one that it is in may have some.")
    if found.state not in (versions.State.EMPTY, versions.State.BEHIND):
        return ok("The role may not change the schema, and servers do not need to.")
    return warning(
        "The role may not change the schema, which is not the newest; expected one that may "
        "for the upgrade, not for servers.",
        "With the URL of such a role in DDL_URL: jupyter session-store upgrade --url env:DDL_URL",
    )


def room(used: int, most: int, cure: str) -> Outcome:
    """Judge how many more connections a server takes."""
    text = f"{used} of {most} are in use; each server that is busy holds one"
    if used <= most * _CROWDED:
        return ok(f"{text}.")
    return warning(f"{text}. Expected at most {_CROWDED:.0%}.", cure)


def clock(connection: Connection) -> Outcome:
    """Compare the database's clock with this machine's."""
    statement = backend_of(connection).clock
    assert statement is not None
    before = time.time()
    theirs = to_utc(connection.exec_driver_sql(statement).scalar_one()).timestamp()
    after = time.time()
    ahead = theirs - (before + after) / 2
    direction = "ahead of" if ahead > 0 else "behind"
    if abs(ahead) <= _SKEW + (after - before) / 2:
        return ok(f"The database's differs from this machine's by {abs(ahead):.1f} s.")
    return warning(
        f"The database's is {abs(ahead):.0f} s {direction} this machine's; expected at most "
        f"{_SKEW} s. Ages are shown wrong; no decision rests on them.",
        "Let both machines follow a time server: timedatectl set-ntp true",
    )


def sessions(connection: Connection) -> Outcome:
    """Count what is stored."""
    count, namespaces = connection.execute(
        select(func.count(), func.count(distinct(SESSIONS.c.namespace))).select_from(SESSIONS)
    ).one()
    servers = connection.execute(select(func.count()).select_from(SERVERS)).scalar_one()
    return ok(f"Sessions: {count}. Namespaces: {namespaces}. Registered servers: {servers}.")


def unknown_authorities(connection: Connection) -> Outcome:
    """Look for sessions that no server will ever finish or remove."""
    strangers = select(func.count()).select_from(SESSIONS).where(UNKNOWN_AUTHORITY)
    count = connection.execute(strangers).scalar_one()
    if not count:
        return ok("None: each session belongs to a server or to a gateway.")
    return warning(
        f"{count} sessions have an authority that is neither a server nor a gateway, and are "
        "left alone by all servers.",
        f"If nobody needs them: DELETE FROM {SESSIONS.name} WHERE {UNKNOWN_AUTHORITY_TEXT};",
    )


def judge_tls(
    host: str | None, protocol: str | None, verified: bool | None, how: str, cure: str
) -> Outcome:
    """Judge the TLS of a connection; `how` says what tells, and `cure` how to have it verified.

    The host may be the path of a socket. `verified` is ``None`` if it cannot be told whether
    the server has to prove that it is the right one.
    """
    local = _is_local(host)
    if protocol is None:
        if local:
            return ok(f"Off, {how}: the server is on this machine.")
        return warning(
            f"Off, {how}: what is sent can be read and changed on its way; expected TLS.", cure
        )
    text = f"{protocol}, {how}"
    if verified is False and not local:
        return warning(
            f"{text}: whoever is on the way can pass for the server; expected that its "
            "certificate is verified.",
            cure,
        )
    return ok(f"{text}.")


def _is_local(host: str | None) -> bool:
    if not host or host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
