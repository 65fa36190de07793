"""What a prune costs those who write to the same table: how long they wait for its locks."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from itertools import islice

from sqlalchemy import Connection, bindparam, insert, update

from jupyter_session_store.records import SessionRecord
from jupyter_session_store.sql.admin.admin_connection import retry_if_rolled_back
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine.transactions import transaction
from jupyter_session_store.sql.models import Session
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.testing import record

from .databases import Databases, Place
from .peers import OURS
from .results import Results

#: Sessions that are removed, of so many a namespace.
ROWS = 100_000
EACH = 100

_PRUNE = "from jupyter_session_store.cli.app import main; main()"
_WRITE = (
    update(Session)
    .where(Session.namespace == bindparam("is_namespace"), Session.session_id == bindparam("is_id"))
    .values(name=bindparam("new_name"))
)


def run_prune(databases: Databases, results: Results, *, quick: bool) -> None:
    """Measure writes to random sessions, alone and while all of them are removed."""
    rows = 10_000 if quick else ROWS
    for name in databases.names:
        results.say(f"prune: {rows:,} sessions on {name}")
        place = databases.place(name)
        engine = engines.create(place.text)
        try:
            migrating.upgrade(engine)
            with engine.connect() as connection:
                _fill(connection, rows)
                alone = [_write(connection, rows) for _ in range(rows // 50)]
                results.add("prune", OURS, name, "write, alone", alone)
                _beside(connection, place, rows, results)
        finally:
            engine.dispose()


def _beside(connection: Connection, place: Place, rows: int, results: Results) -> None:
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            [sys.executable, "-c", _PRUNE, "prune", "--older-than", "1d", "--yes", "--json"],
            env={
                **os.environ,
                "JUPYTER_CONFIG_DIR": home,
                "JUPYTER_SESSION_STORE_URL": place.text,
            },
            stdout=subprocess.PIPE,
        )
        samples: list[float] = []
        began = time.perf_counter()
        while process.poll() is None:
            samples.append(_write(connection, rows))
            time.sleep(0.001)
        elapsed = time.perf_counter() - began
        output, _ = process.communicate()
    if process.returncode or json.loads(output)["removed"] != rows:
        raise RuntimeError(f"The prune ended with {process.returncode}: {output!r}")
    results.add("prune", OURS, place.database, "write, beside the prune", samples)
    results.add("prune", OURS, place.database, "the prune", [elapsed * 1e6])


def _write(connection: Connection, rows: int) -> float:
    """Write to one session, wherever it is, and return the microseconds that it took."""
    number = random.randrange(rows)
    parameters = {
        "is_namespace": _namespace(number),
        "is_id": _session_id(number),
        "new_name": f"{number}",
    }
    began = time.perf_counter()
    retry_if_rolled_back(connection, lambda: connection.execute(_WRITE, parameters))
    return (time.perf_counter() - began) * 1e6


def _fill(connection: Connection, rows: int) -> None:
    old = datetime.now(timezone.utc) - timedelta(days=60)

    def sessions() -> Iterator[SessionRecord]:
        for number in range(rows):
            one = record(_session_id(number))
            yield one.replace(namespace=_namespace(number), updated_at=old)

    remaining = map(to_row, sessions())
    while batch := list(islice(remaining, 1000)):
        with transaction(connection):
            connection.execute(insert(Session), batch)


def _namespace(number: int) -> str:
    return f"user-{number // EACH:06}"


def _session_id(number: int) -> str:
    return f"session-{number:08}"
