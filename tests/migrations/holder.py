"""Holds the migration lock until it is killed."""

from __future__ import annotations

import sys
import time

from jupyter_session_store.sql.schema import locks, migrating

from .support import engine_of


def main() -> None:
    """Hold it."""
    print("ready", flush=True)
    url = sys.stdin.readline().strip()
    with (
        engine_of(url) as engine,
        migrating.migration_connection(engine) as connection,
        locks.migration_lock(connection),
    ):
        time.sleep(3600)


if __name__ == "__main__":
    main()
