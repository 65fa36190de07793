"""A server's use of the store, in a process of its own that starts when it is told to.

It reads the URL from its standard input, which is the barrier: whoever started
several writes to all when all are ready. It prints how many sessions it finds.
"""

from __future__ import annotations

import asyncio
import logging
import sys

# Beforehand, so that the race is one for the database and not for the imports.
import alembic.command

import jupyter_session_store.sql.schema.stock  # noqa: F401
from jupyter_session_store.records import SessionRecord

from .support import SCOPE, opened, record


async def use(url: str, name: str) -> list[SessionRecord]:
    with opened(url, server_id=name) as repository:
        await repository.add(record(name))
        return await repository.find(SCOPE)


def main(name: str) -> None:
    """Be one racer."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print("ready", flush=True)
    url = sys.stdin.readline().strip()
    found = asyncio.run(use(url, name))
    assert name in {one.session_id for one in found}
    print(len(found), alembic.command.__name__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
