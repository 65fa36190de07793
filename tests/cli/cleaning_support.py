"""What the tests of prune, purge, remove and rename share."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import CLOSING, STARTING, Scope, SessionRecord
from jupyter_session_store.sql.engine.url import describe, parse

from ..databases import Database
from ..forking import Process, start
from ..migrations.support import ROOT
from .support import PATIENCE, environment, server, session, started

GATEWAY: Final = "gateway:http://gateway.example.org"
#: Seconds. For a server that nobody runs: the shortest there is.
DEAD: Final = 3
#: Seconds. For one that is to live on a machine that is busy.
LIVING: Final = 12


def without_delays(told: str) -> str:
    """Return what a command said, without the lines that a busy machine is the reason of."""
    lines = told.splitlines(keepends=True)
    return "".join(line for line in lines if "it answered late" not in line)


def aged(days: float = 60) -> dict[str, Any]:
    """Return what a session was changed so long ago has."""
    return {"updated_at": datetime.now(timezone.utc) - timedelta(days=days)}


def local(namespace: str, number: int, server_id: str, **changes: Any) -> SessionRecord:
    """Return a session on a kernel of a server's own, with a claim to its path."""
    return _session(Scope(namespace, f"server:{server_id}"), number, server_id, changes)


def remote(namespace: str, number: int, server_id: str, **changes: Any) -> SessionRecord:
    """Return a session on a kernel of a gateway, with a claim to its path."""
    return _session(Scope(namespace, GATEWAY), number, server_id, changes)


def _session(scope: Scope, number: int, server_id: str, changes: dict[str, Any]) -> SessionRecord:
    whole = session(scope.namespace, number, authority=scope.authority, server_id=server_id)
    return whole.replace(**{"claim": claim_of(scope, str(whole.path)), **changes})


def dead(namespace: str, server_id: str) -> dict[str, Any]:
    """Return the row of a server that nobody runs, and that is soon seen to be dead."""
    return server(namespace, server_id, lease_seconds=DEAD)


def left_by(namespace: str, server_id: str, number: int) -> list[SessionRecord]:
    """Return all that a server can leave, numbered from `number` on.

    A kernel of its own, then on a gateway: not begun to start, starting, closing, ready.
    """
    return [
        local(namespace, number, server_id),
        remote(namespace, number + 1, server_id, state=STARTING, kernel_id=None),
        remote(namespace, number + 2, server_id, state=STARTING),
        remote(namespace, number + 3, server_id, state=CLOSING),
        remote(namespace, number + 4, server_id),
    ]


def name_of(url: str) -> str:
    """Return how a database is named in texts."""
    return describe(parse(url))


def removed(output: str) -> dict[str, int]:
    """Return how much was removed, as JSON says it."""
    found = json.loads(output)
    assert list(found)[:4] == ["database", "removed", "namespaces", "evicted"]
    return {name: found[name] for name in ("removed", "namespaces", "evicted")}


def numbers(database: Database) -> list[int]:
    """Return the numbers of the sessions that are there, in their order."""
    rows = database.rows("SELECT session_id FROM jupyter_sessions")
    return sorted(int(session_id.partition("-")[2]) for (session_id,) in rows)


def servers_of(database: Database) -> set[tuple[str, str]]:
    """Return the namespaces and ids of the servers that are registered."""
    rows = database.rows("SELECT namespace, server_id FROM jupyter_servers")
    return {(namespace, server_id) for namespace, server_id in rows}


def everything(database: Database) -> list[tuple[Any, ...]]:
    """Return all sessions and servers, to compare before and after."""
    sessions = "SELECT * FROM jupyter_sessions ORDER BY namespace, session_id"
    return [*database.rows(sessions), *sorted(servers_of(database))]


@contextmanager
def living(
    url: str, namespace: str, server_id: str, *, lease: int = LIVING, held: Sequence[int] = ()
) -> Iterator[Process]:
    """Yield the process of a server that is alive, and kill it.

    Parameters
    ----------
    url, namespace, server_id : str
    lease : int
        Seconds.
    held : sequence of int
        The numbers of the sessions of its own kernels.
    """
    process = start(
        ["-m", "tests.cli.living"],
        cwd=ROOT,
        env=os.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        who = {"url": url, "namespace": namespace, "server_id": server_id}
        process.stdin.write(json.dumps({**who, "lease": lease, "held": list(held)}) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "registered\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def asked(
    *words: str,
    answer: str,
    home: Path,
    url: str,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[int, str]:
    """Run the command at a terminal, and answer its question.

    Parameters
    ----------
    *words, home, url
        As :func:`.support.session_store` has them.
    answer : str
    meanwhile : callable
        What happens before the answer.

    Returns
    -------
    tuple of int and str
        The exit code, and all that was written.
    """
    ours, terminal = pty.openpty()
    written, writing = os.pipe()
    try:
        with (
            started(
                words,
                home=home,
                surrounding=environment(home, url),
                stdin=terminal,
                stdout=writing,
                stderr=writing,
            ) as process,
            open(written) as shown,
        ):
            os.close(writing)
            output = ""
            while not output.endswith("[y/N] "):
                character = shown.read(1)
                assert character, f"it asked nothing:\n{output}"
                output += character
            meanwhile()
            os.write(ours, f"{answer}\n".encode())
            code = process.wait(PATIENCE)
            return code, output + shown.read()
    finally:
        os.close(ours)
        os.close(terminal)


def waits(database: Database, verb: str) -> bool:
    """Return whether such a statement on sessions waits for a lock."""
    query = {
        "postgresql": "SELECT 1 FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'",
        "mysql": "SELECT 1 FROM information_schema.processlist"
        f" WHERE db = database() AND info LIKE '{verb} jupyter_sessions%'",
    }
    return bool(database.rows(query[database.kind]))
