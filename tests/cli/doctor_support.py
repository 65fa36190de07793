"""What the tests of ``doctor`` share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess
from typing import Any, Final
from urllib.parse import quote, urlsplit

from jupyter_session_store.sql import doctor
from jupyter_session_store.sql.doctor import Finding, Verdict
from jupyter_session_store.sql.engine import factory as engines

from ..databases import Database

SERVERS: Final = {"reason": "SQLite has no server"}
GENERAL: Final = ["database", "packages", "driver"]
TABLES: Final = ["rights", "sessions", "strangers"]
#: What is found of each kind of database, in order.
EXAMINED: Final = {
    "sqlite": [
        *GENERAL,
        *(
            "file",
            "file system",
            "disk space",
            "connection",
            "journal",
            "integrity",
            "revision",
            "keys",
        ),
        *TABLES,
    ],
    "postgresql": [
        *GENERAL,
        *("connection", "server", "writes", "encoding", "TLS", "pooler", "connections", "clock"),
        *("revision", "schema rights", "keys"),
        *TABLES,
        "wall",
    ],
    "mysql": [
        *GENERAL,
        *("connection", "server", "writes", "TLS", "pooler", "cluster", "connections", "clock"),
        *("revision", "schema rights", "keys"),
        *TABLES,
        *("collation", "storage engine"),
    ],
}


def look(url: str, **options: Any) -> dict[str, Finding]:
    """Examine a database in this process."""
    engine = engines.create(url, options)
    try:
        return {finding.name: finding for finding in doctor.examine(engine)}
    finally:
        engine.dispose()


def told(done: CompletedProcess[str]) -> dict[str, Finding]:
    """Return what the command has told as JSON."""
    assert done.stderr == ""
    found = [
        Finding(**{**row, "verdict": Verdict(row["verdict"]), "cure": tuple(row["cure"])})
        for row in json.loads(done.stdout)
    ]
    names = [finding.name for finding in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def unwell(findings: dict[str, Finding]) -> dict[str, Verdict]:
    """Return the verdicts on what is not well."""
    return {
        name: finding.verdict
        for name, finding in findings.items()
        if finding.verdict is not Verdict.OK
    }


def with_login(database: Database, user: str, password: str) -> str:
    """Return the URL for another user."""
    parts = urlsplit(database.url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl()


@contextmanager
def another_user(database: Database) -> Iterator[str]:
    """Yield the URL of a user of the server who has been granted nothing."""
    name = "jss_" + os.urandom(4).hex()
    password = "another's"
    escaped = password.replace("'", "''")
    if database.kind == "postgresql":
        database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{escaped}'")
    else:
        database.execute(f"CREATE USER {name}@'%' IDENTIFIED BY '{escaped}'")
        # MySQL lets nobody in who may do nothing at all there.
        database.execute(f"GRANT SHOW VIEW ON {urlsplit(database.url).path[1:]}.* TO {name}@'%'")
    try:
        yield with_login(database, name, password)
    finally:
        if database.kind == "postgresql":
            database.execute(f"DROP OWNED BY {name}")
            database.execute(f"DROP ROLE {name}")
        else:
            database.execute(f"DROP USER {name}@'%'")


def role_of(database: Database, url: str) -> str:
    user = urlsplit(url).username or ""
    return user if database.kind == "postgresql" else f"{user}@'%'"


def mend(database: Database, finding: Finding) -> None:
    """Do what a finding says, as an administrator of the database."""
    assert finding.cure
    for statement in finding.cure:
        database.execute(statement.rpartition(": ")[2])
