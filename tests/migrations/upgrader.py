"""An upgrade, in a process of its own that starts when it is told to.

As :mod:`.racer`, it reads the URL from its standard input. It prints how many tables and
columns it has made.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

# Beforehand, so that the race is one for the database and not for the imports.
import alembic.command
from sqlalchemy import event

from jupyter_session_store.sql.schema import migrating, row_lock

from .support import engine_of


def upgrade(url: str) -> int:
    """Upgrade a database, and return how many of its statements have changed the schema."""
    changes: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if row_lock.LOCK_TABLE not in statement and migrating_table not in statement:
            words = statement.split()[:2]
            if words[:1] == ["ALTER"] or words == ["CREATE", "TABLE"]:
                changes.append(statement)

    # Alembic makes its own as soon as it looks.
    migrating_table = "jupyter_session_store_version"
    with engine_of(url) as engine:
        event.listen(engine, "before_cursor_execute", note)
        migrating.upgrade(engine)
    return len(changes)


def main() -> None:
    """Upgrade once."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print("ready", flush=True)
    url = sys.stdin.readline().strip()
    print(upgrade(url), alembic.command.__name__, flush=True)


if __name__ == "__main__":
    main()
