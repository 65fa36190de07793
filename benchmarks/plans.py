"""``python -m benchmarks.plans``: each statement of a running server on a table of many rows.

Each verb of the repository is done in many namespaces, as a server does it. Of each statement that
it sends the table says by which index it is answered, how many rows it touches, and how long it
takes. Once in a while, and not in CI: ten million rows take PostgreSQL 11 GB, and ten minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, event, insert, literal, select

from jupyter_session_store.authorities import authority_of
from jupyter_session_store.records import CLOSING, READY, Scope, SessionRecord
from jupyter_session_store.sql.engine import factory as engines
from jupyter_session_store.sql.engine.transactions import transaction
from jupyter_session_store.sql.queries import last_on_kernel, leases, mirroring, session_queries
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.tables import SERVERS, SESSIONS
from jupyter_session_store.testing import record, server

from .databases import DATABASES, Databases
from .machine import describe

#: Sessions of one namespace, of which each has a kernel.
EACH: Final = 100
#: Rows that are made one by one; the others are copies of theirs, in namespaces of their own.
_FIRST: Final = 100_000
_GATEWAY: Final = "gateway:g"
_SAMPLES: Final = 50


@dataclass
class Statement:
    """One statement of a verb.

    Parameters
    ----------
    text, parameters
        As the driver was given them, the last time.
    """

    text: str
    parameters: Any
    microseconds: list[float] = field(default_factory=list)
    rows: int = 0


class Recorder:
    """Notes the statements of a connection."""

    def __init__(self, engine: Engine) -> None:
        self.statements: dict[str, Statement] = {}
        self._began = 0.0
        event.listen(engine, "before_cursor_execute", self._begin)
        event.listen(engine, "after_cursor_execute", self._end)

    def _begin(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def _end(
        self, connection: Connection, cursor: Any, text: str, parameters: Any, *_: Any
    ) -> None:
        took = (time.perf_counter() - self._began) * 1e6
        # A list of values is as long as there are values.
        one_each = re.sub(r"%\(\w+\)s(?:::\w+)?|%s", "?", text)
        key = re.sub(r"\?(?:, \?)+", "?, ...", one_each)
        one = self.statements.setdefault(key, Statement(text, parameters))
        one.text, one.parameters = text, parameters
        one.microseconds.append(took)
        one.rows = max(one.rows, cursor.rowcount)


def _namespace(number: int) -> str:
    return f"user-{number:06}"


def _server_of(namespace: str) -> str:
    """Return the id of a namespace's server, which is the same in those that are copies."""
    return f"server of {namespace[-len(_namespace(0)) :]}"


def _session(namespace: str, number: int) -> SessionRecord:
    """Return a session as a server of a gateway stores it."""
    model = json.dumps({"id": "k" * 36, "name": "python3", "execution_state": "idle"})
    return record(
        f"{number:04}-e89b-12d3-a456-426614174000",
        Scope(namespace, _GATEWAY),
        path=f"projects/a folder/notebook {number}.ipynb",
        kernel_id=f"{number:04}-kernel-12d3-a456-426614174000",
        kernel_model=model,
        server_id=_server_of(namespace),
    )


def fill(engine: Engine, rows: int) -> int:
    """Add so many sessions, and a server for each namespace; return the number of namespaces."""
    namespaces = min(rows, _FIRST) // EACH
    with engine.connect() as connection:
        for number in range(namespaces):
            name = _namespace(number)
            sessions = [_session(name, one) for one in range(EACH)]
            dated = [
                one.replace(created_at=one.created_at + timedelta(seconds=place))
                for place, one in enumerate(sessions)
            ]
            with transaction(connection):
                connection.execute(insert(SESSIONS), [to_row(one) for one in dated])
                one = server(_server_of(name), name)
                connection.execute(insert(SERVERS), vars(one))
        # An index is made of many rows in a fraction of the time that each of them would take.
        for index in SESSIONS.indexes:
            index.drop(connection)
        for turn in range(1, rows // _FIRST):
            for table in (SESSIONS, SERVERS):
                with transaction(connection):
                    connection.execute(_copy(table, turn))
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET maintenance_work_mem = '1GB'")
        for index in SESSIONS.indexes:
            index.create(connection)
    return namespaces


def _copy(table: Table, turn: int) -> Any:
    columns = [
        (literal(f"{turn}-") + column) if column.name == "namespace" else column
        for column in table.columns
    ]
    # Digits come before.
    first = table.c.namespace >= _namespace(0)
    return insert(table).from_select([c.name for c in table.columns], select(*columns).where(first))


Verb = Callable[[Connection, Scope], object]


def verbs() -> dict[str, Verb]:
    """Return what a server asks its repository, each in a namespace of some sessions."""
    neighbours = leases.Neighbours()
    own = leases.Neighbours()
    #: The versions of sessions that were changed.
    changed: dict[SessionRecord, int] = {}

    def a_session(scope: Scope) -> SessionRecord:
        return _session(scope.namespace, random.randrange(EACH))

    def find(name: str) -> Verb:
        def verb(connection: Connection, scope: Scope) -> object:
            criteria = {name: getattr(a_session(scope), name)}
            found = session_queries.find(connection, scope, criteria)
            assert len(found) == 1
            return found

        return verb

    def add(connection: Connection, scope: Scope) -> object:
        return session_queries.add(connection, _session(scope.namespace, EACH))

    def mirror_change(connection: Connection, scope: Scope) -> object:
        one = a_session(scope)
        before = one.replace(version=changed.get(one, one.version))
        after = before.replace(name=f"{random.random()}", version=before.version + 1)
        changed[one] = after.version
        done = mirroring.try_overwrite(connection, before, after)
        assert done
        return done

    def rename(connection: Connection, scope: Scope) -> object:
        values = {"name": f"{random.random()}"}
        return session_queries.update(connection, scope, a_session(scope).session_id, values)

    def begin_close(connection: Connection, scope: Scope) -> object:
        values = {"state": CLOSING}
        return last_on_kernel.begin_close(connection, scope, a_session(scope).session_id, values)

    def move(connection: Connection, scope: Scope) -> object:
        one = a_session(scope)
        values = {"kernel_id": str(one.kernel_id), "state": READY}
        return last_on_kernel.move(connection, scope, one.session_id, str(one.kernel_id), values)

    def remove(connection: Connection, scope: Scope) -> object:
        return session_queries.remove(connection, scope, [_session(scope.namespace, EACH)])

    def remove_many(connection: Connection, scope: Scope) -> object:
        gone = [_session(scope.namespace, EACH + number) for number in range(10)]
        return session_queries.remove(connection, scope, gone)

    def renew(connection: Connection, scope: Scope) -> object:
        neighbours.shared = scope
        one = server(_server_of(scope.namespace), scope.namespace)
        neighbours.read(connection, one)
        return leases.renew(connection, one, [], neighbours)

    def renew_own(connection: Connection, scope: Scope) -> object:
        one = server(_server_of(scope.namespace), scope.namespace)
        own.read(connection, one)
        return leases.renew(connection, one, [], own)

    def mirror(connection: Connection, scope: Scope) -> object:
        local = Scope(scope.namespace, authority_of(_server_of(scope.namespace)))
        return mirroring.mirror(connection, local, list)

    def evict(connection: Connection, scope: Scope) -> object:
        gone = server("nobody", scope.namespace)
        return leases.evict(connection, scope, [gone], _server_of(scope.namespace))

    return {
        "find, by id": find("session_id"),
        "find, by path": find("path"),
        "find, by kernel": find("kernel_id"),
        "find, all of 100": lambda c, scope: session_queries.find(c, scope, {}),
        "add": add,
        # Before all others that change a version.
        "mirror_change": mirror_change,
        "update": rename,
        "begin_close": begin_close,
        "move": move,
        "remove": remove,
        "remove, 10 sessions": remove_many,
        "renew, gateway": renew,
        "renew, local kernels": renew_own,
        "mirror, nothing differs": mirror,
        "evict": evict,
        "evict, unknown authorities": leases.with_unknown_authority,
    }


@contextmanager
def analysing(connection: Connection) -> Iterator[None]:
    """Let a statement happen, and not have happened."""
    with closing(connection.connection.dbapi_connection.cursor()) as cursor:  # type: ignore[union-attr]
        cursor.execute("BEGIN")
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


def explain(connection: Connection, one: Statement) -> str:
    """Return the indexes that answer a statement, and on PostgreSQL what it reads."""
    if one.text.upper().startswith("INSERT"):
        # It is there by now.
        return ""
    driver: Any = connection.connection.dbapi_connection
    name = connection.dialect.name
    how = {
        "postgresql": "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ",
        "sqlite": "EXPLAIN QUERY PLAN ",
    }.get(name, "EXPLAIN ")
    with analysing(connection), closing(driver.cursor()) as cursor:
        cursor.execute(how + one.text, one.parameters)
        rows = cursor.fetchall()
        names = [column[0] for column in cursor.description]
    if name == "postgresql":
        return _of_postgresql(rows[0][0])
    if name == "sqlite":
        return _unique(_of_sqlite(row[3]) for row in rows)
    return _unique(_of_mysql(dict(zip(names, row, strict=True))) for row in rows)


def _unique(words: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(word for word in words if word)) or "none"


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


def _of_postgresql(plan: Any) -> str:
    (whole,) = json.loads(plan) if isinstance(plan, str) else plan
    root = whole["Plan"]
    used = _unique(
        f"`{node['Index Name']}`" if "Index Name" in node else f"**{node['Node Type']}**"
        for node in _nodes(root)
        if "Index Name" in node or node["Node Type"] == "Seq Scan"
    )
    blocks = root.get("Shared Hit Blocks", 0) + root.get("Shared Read Blocks", 0)
    return f"{used}; {blocks} blocks"


def _of_sqlite(detail: str) -> str:
    if found := re.search(r"USING (?:COVERING )?INDEX (\w+)", detail):
        return f"`{found[1]}`"
    return f"**{detail}**" if detail.startswith("SCAN jupyter") else ""


def _of_mysql(row: Mapping[str, Any]) -> str:
    if row.get("key"):
        return f"`{row['key']}`"
    return f"**{row['table']}: {row['type']}**" if row.get("type") == "ALL" else ""


def measure(engine: Engine, namespaces: int, rows: int) -> Iterator[tuple[str, Statement, str]]:
    """Yield each verb's statements with what answers them."""
    turns = max(1, rows // _FIRST)
    for name, verb in verbs().items():
        recorder = Recorder(engine)
        with engine.connect() as connection:
            for _ in range(_SAMPLES):
                turn = random.randrange(turns)
                before = f"{turn}-" if turn else ""
                namespace = before + _namespace(random.randrange(namespaces))
                verb(connection, Scope(namespace, _GATEWAY))
            statements = list(recorder.statements.values())
            event.remove(engine, "before_cursor_execute", recorder._begin)
            event.remove(engine, "after_cursor_execute", recorder._end)
            for one in statements:
                if re.match(r"(?i)\s*(?:WITH|SELECT|INSERT|UPDATE|DELETE)\b", one.text):
                    yield name, one, explain(connection, one)


def _table(engine: Engine, namespaces: int, rows: int) -> Iterator[str]:
    yield "| verb | statement | answered by | median | fastest |"
    yield "| --- | --- | --- | ---: | ---: |"
    for name, one, used in measure(engine, namespaces, rows):
        kind = one.text.split(maxsplit=1)[0].upper()
        median, least = statistics.median(one.microseconds), min(one.microseconds)
        yield f"| {name} | {kind} | {used} | {median / 1000:.2f} ms | {least / 1000:.2f} ms |"


def main() -> None:
    """Print a table for each database."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plans", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--databases", default=",".join(DATABASES), metavar="NAME,...")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Databases(arguments.databases.split(","), Path(folder)) as databases,
    ):
        for name, value in describe(Path(folder), databases.products).items():
            print(f"- {name}: {value}")
        for name in databases.names:
            engine = engines.create(databases.place(name).text, statement_timeout=False)
            try:
                migrating.upgrade(engine)
                began = time.monotonic()
                namespaces = fill(engine, arguments.rows)
                with engine.connect() as connection:
                    # As these do by themselves in time.
                    connection.exec_driver_sql(_STATISTICS[name])
                took = time.monotonic() - began
                print(f"\n## {databases.products[name]}: {arguments.rows:,} sessions\n")
                print(f"Filled in {took:.0f} s.\n")
                for line in _table(engine, namespaces, arguments.rows):
                    print(line, flush=True)
            finally:
                engine.dispose()


_STATISTICS: Final = {
    "postgresql": "VACUUM ANALYZE",
    "mysql": "ANALYZE TABLE jupyter_sessions, jupyter_servers",
    "sqlite": "SELECT 1",
}

if __name__ == "__main__":
    main()
