"""A thousand servers on one PostgreSQL, through PgBouncer: what a list takes, and what is left."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import psutil
import psycopg
from sqlalchemy import insert

from jupyter_session_store.records import Scope
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.models import Session
from jupyter_session_store.sql.schema import starting
from tests.databases.database import parameters
from tests.databases.server import NoDatabase

from .databases import Databases, Place
from .peers import OURS
from .pgbouncer import PgBouncer
from .ported import values_of
from .replica_worker import Task, Times
from .results import Results

SERVERS: Final = 1000
#: Of each namespace.
REPLICAS: Final = 10
#: Of each server, under the gateway that all of its namespace share: a list returns all of these.
SESSIONS: Final = 1
ROWS: Final = REPLICAS * SESSIONS
#: To PostgreSQL, whose own default is 100 at most.
CONNECTIONS: Final = 90

_PROCESSES: Final = 4
#: Seconds: a whole interval of renewals, and of two.
_WARM_UP: Final = 30.0
_MEASURED: Final = 60.0
#: Seconds between two looks at the number of connections.
_LOOK: Final = 0.25


@dataclass(frozen=True)
class _Group:
    """Processes whose processor time counts together."""

    name: str
    processes: list[psutil.Process]

    def seconds(self) -> float:
        """Return what they, their children and those that have ended have spent."""
        spent = 0.0
        for root in self.processes:
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    spent += times.user + times.system
            # Of children that have ended, and were waited for.
            times = root.cpu_times()
            spent += times.children_user + times.children_system
        return spent


def run_replicas(databases: Databases, results: Results, *, quick: bool) -> None:
    """Measure lists and renewals of many servers, each with a connection of its own to PgBouncer.

    Without PgBouncer nothing is measured, and that is said.
    """
    if "postgresql" not in databases.names:
        return
    count = SERVERS // 10 if quick else SERVERS
    _allow_files(4 * SERVERS)
    place = databases.place("postgresql")
    namespaces = [f"tenant-{number}" for number in range(math.ceil(count / REPLICAS))]
    results.say(f"replicas: filling a table for {count:,} servers")
    _fill(place, namespaces)
    with ExitStack() as stack:
        try:
            pooler = PgBouncer(place, clients=2 * SERVERS, connections=CONNECTIONS)
        except NoDatabase as error:
            results.say(f"replicas: NOT MEASURED: {error}")
            return
        stack.callback(pooler.close)
        results.say(f"replicas: opening {count:,} servers")
        workers = stack.enter_context(_workers(pooler.pooled, namespaces))
        times = Times(time.monotonic() + 1.0, 10.0, 10.0)
        if not quick:
            times = Times(times.start, _WARM_UP, _MEASURED)
        results.say(f"replicas: measuring, for {times.warm_up + times.measured:.0f} s")
        for worker in workers:
            _say(worker, asdict(times))
        _add(results, "servers", float(count))
        time.sleep(max(0.0, times.start + times.warm_up - time.monotonic()))
        _watch(place, pooler, workers, times, results)
        _collect(workers, times, results)


def _add(results: Results, measure: str, *samples: float) -> None:
    if samples:
        results.add("replicas", OURS, "postgresql", measure, list(samples))


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files for the processes that are started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _authority(namespace: str) -> str:
    return f"gateway:{namespace}"


def _fill(place: Place, namespaces: list[str]) -> None:
    """Make the tables, and the sessions of every server in them."""
    engine = engines.create(place.text)
    try:
        starting.ensure(engine, "safe")
        rows = []
        for namespace in namespaces:
            scope = Scope(namespace, _authority(namespace))
            for number in range(ROWS):
                kernel_id = str(uuid.uuid4())
                model = {
                    "id": kernel_id,
                    "name": "python3",
                    "last_activity": "2025-01-01T00:00:00.000000Z",
                    "execution_state": "idle",
                    "connections": 1,
                }
                name = f"notebook-{number}.ipynb"
                session_id, path = str(uuid.uuid4()), f"work/analysis/{name}"
                server_id = f"{namespace}-{number % REPLICAS}"
                rows.append(
                    values_of(
                        scope, session_id, path, name, "notebook", kernel_id, model, server_id
                    )
                )
        with engine.begin() as connection:
            for start in range(0, len(rows), 5000):
                connection.execute(insert(Session), rows[start : start + 5000])
        with engine.connect() as connection:
            # What a server's own housekeeping would do within a minute.
            connection.exec_driver_sql("ANALYZE jupyter_sessions")
    finally:
        engine.dispose()


@contextmanager
def _workers(place: Place, namespaces: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the processes that are the servers; each has opened all of its own."""
    servers = [
        (namespace, _authority(namespace), f"{namespace}-{number}")
        for namespace in namespaces
        for number in range(REPLICAS)
    ]
    workers: list[subprocess.Popen[str]] = []
    try:
        for number in range(_PROCESSES):
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.replica_worker"],
                    cwd=Path(__file__).resolve().parent.parent,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            # The replicas of a namespace are in different processes.
            task = Task(place.text, servers[number::_PROCESSES], ROWS, seed=number)
            _say(workers[-1], asdict(task))
        for worker in workers:
            _hear(worker)
        yield workers
    finally:
        for worker in workers:
            try:
                worker.wait(30 if sys.exc_info()[0] is None else 0)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _say(worker: subprocess.Popen[str], what: dict[str, Any]) -> None:
    assert worker.stdin is not None
    worker.stdin.write(f"{json.dumps(what)}\n")
    worker.stdin.flush()


def _hear(worker: subprocess.Popen[str]) -> str:
    out: IO[str] | None = worker.stdout
    assert out is not None
    line = out.readline()
    if not line:
        raise RuntimeError(f"A process of simulated servers ended with {worker.wait()}.")
    return line


def _watch(
    place: Place,
    pooler: PgBouncer,
    workers: list[subprocess.Popen[str]],
    times: Times,
    results: Results,
) -> None:
    """Look at the database and the machine, from now until the end."""
    end = times.start + times.warm_up + times.measured
    with psycopg.connect(**parameters(place.text), autocommit=True) as connection:
        groups = [_Group("PgBouncer", [psutil.Process(pooler.pid)])]
        groups.append(_Group("simulated servers", [psutil.Process(w.pid) for w in workers]))
        database = _server_of(connection)
        if database is not None:
            groups.append(_Group("PostgreSQL", [database]))
        spent = [-group.seconds() for group in groups]
        idle, statements, began = -psutil.cpu_times().idle, -pooler.statements(), time.monotonic()
        while time.monotonic() < end:
            query = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            _add(results, "connections", float(_value(connection, query)))
            time.sleep(_LOOK)
        seconds = time.monotonic() - began
        statements += pooler.statements()
        idle += psutil.cpu_times().idle
        spent = [before + group.seconds() for before, group in zip(spent, groups, strict=True)]
    _add(results, "statements a second", statements / seconds)
    for group, used in zip(groups, spent, strict=True):
        _add(results, f"processor: {group.name}", used / seconds)
    _add(results, "processor: idle, left to PostgreSQL", idle / seconds)


def _value(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _server_of(connection: psycopg.Connection[Any]) -> psutil.Process | None:
    """Return the first process of the database's server, if it is on this machine."""
    with contextlib.suppress(psutil.NoSuchProcess):
        backend = psutil.Process(_value(connection, "SELECT pg_backend_pid()"))
        # Another machine's, or a container's, number may be anybody's here.
        if backend.name().startswith("postgres"):
            return backend.parent()
    return None


def _collect(workers: list[subprocess.Popen[str]], times: Times, results: Results) -> None:
    """Take what the servers measured after the warm-up; errors from the first on."""
    since = times.start + times.warm_up
    until = since + times.measured
    errors: Counter[str] = Counter()
    early = 0
    for worker in workers:
        measured = json.loads(_hear(worker))
        for measure, field in (
            ("list", "lists"),
            ("renewal", "renewals"),
            ("list: asked for late by", "late"),
        ):
            taken = [seconds for began, seconds in measured[field] if since <= began < until]
            _add(results, measure, *(seconds * 1e6 for seconds in taken))
        errors.update(text for began, text in measured["errors"])
        early += sum(began < since for began, _ in measured["errors"])
    _add(results, "errors", float(errors.total() - early))
    _add(results, "errors before, while they started", float(early))
    for text, number in errors.most_common():
        _add(results, f"error: {text}", float(number))
