"""Many servers that start at once on one database: one changes the schema, all come up."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine, event

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.sql.schema import locks, migrating, starting
from jupyter_session_store.sql.schema.versions import State

from ..databases import Database
from ..forking import Forked, start
from .support import ROOT, SCOPE, engine_of, opened, record, run_python, status, surroundings

SERVERS: Final = 8
THREADS: Final = 24
RACER: Final = "tests.migrations.racer"
WAITING: Final = "Waiting for the migration lock"
_PATIENCE: Final = 120.0


class Race:
    """Processes that wait at a barrier.

    Parameters
    ----------
    folder : Path
        For what they log.
    number : int
        Of processes.
    module : str
        What each runs.
    """

    def __init__(self, folder: Path, number: int, module: str) -> None:
        self._logs = [folder / f"racer-{place}.log" for place in range(number)]
        self._racers: list[Forked | subprocess.Popen[str]] = []
        for place, log in enumerate(self._logs):
            with log.open("w") as errors:
                racer = start(
                    ["-m", module, f"session-{place}"],
                    cwd=ROOT,
                    env=surroundings(folder),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
            self._racers.append(racer)

    def start(self, *urls: str) -> None:
        """Let all of them off, each with a URL of its own where there are several."""
        for racer in self._racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n", self.logs()
        for place, racer in enumerate(self._racers):
            assert racer.stdin is not None
            racer.stdin.write(f"{urls[place % len(urls)]}\n")
            racer.stdin.flush()

    def finish(self) -> list[int]:
        """Wait for all; return how many sessions each found."""
        counts = []
        for racer, log in zip(self._racers, self._logs, strict=True):
            output, _ = racer.communicate(timeout=_PATIENCE)
            assert racer.returncode == 0, log.read_text()
            counts.append(int(output.split()[0]))
        return counts

    def logs(self) -> list[str]:
        """Return what each has logged until now."""
        return [log.read_text() for log in self._logs]

    def waiting(self) -> int:
        """Return how many have been seen waiting for the lock."""
        return sum(WAITING in log for log in self.logs())

    def close(self) -> None:
        """End those that have not ended."""
        for racer in self._racers:
            racer.kill()
            racer.communicate()


@contextmanager
def race(folder: Path, number: int = SERVERS, module: str = RACER) -> Iterator[Race]:
    folder.mkdir(exist_ok=True)
    with closing(Race(folder, number, module)) as racers:
        yield racers


def session_ids(database: Database) -> list[str]:
    rows = database.rows("SELECT session_id FROM jupyter_sessions ORDER BY session_id")
    return [str(one) for (one,) in rows]


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_servers_that_start_together_all_come_up(
    new_database: Callable[[], Database],
    tmp_path: Path,
    rounds: Callable[[int], int],
    record_property: Callable[[str, object], None],
) -> None:
    waited: list[int] = []
    # On a busy machine they may miss each other: then a few times more.
    for number in count():
        if number >= rounds(10) and (any(waited) or number >= 10):
            break
        database = new_database()
        with race(tmp_path / str(number)) as racers:
            racers.start(database.url)
            counts = racers.finish()
            waited.append(racers.waiting())
        # The last to look saw what all had added; each saw its own at least.
        assert max(counts) == SERVERS
        assert session_ids(database) == [f"session-{place}" for place in range(SERVERS)]
        with engine_of(database.url) as engine:
            assert status(engine).state is State.CURRENT
    record_property("waited", waited)
    assert any(waited), "none was seen waiting: they did not meet, and this showed nothing"


def states_after_a_look(url: str, place: int, patch: pytest.MonkeyPatch) -> list[State | None]:
    """Ensure a schema while another server upgrades it before the look's statement at a place.

    Returns what the other found, if the look was as long as that, and what this one found.
    """
    found: list[State | None] = []
    statements = count()
    create = starting.create
    with engine_of(url) as engine, engine_of(url) as other:

        def before(*_: object) -> None:
            if next(statements) == place:
                migrating.upgrade(other)
                found.append(status(other).state)

        def create_alone(engine: Engine, log: Any) -> None:
            # The look is over, and the lock keeps the other out.
            event.remove(engine, "before_cursor_execute", before)
            create(engine, log)

        patch.setattr(starting, "create", create_alone)
        event.listen(engine, "before_cursor_execute", before)
        found.append(starting.ensure(engine, "safe").state)
        patch.undo()
    return found


def test_a_migration_between_two_statements_of_a_look(
    new_database: Callable[[], Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes no lock, and may fall into a migration: that makes no schema a foreign one."""
    for place in count():
        found = states_after_a_look(new_database().url, place, monkeypatch)
        assert set(found) == {State.CURRENT}, place
        if len(found) == 1:
            break
    assert place > 1, "a look at an empty database is several statements"


@pytest.mark.torture
def test_servers_wait_for_a_migration_that_goes_on(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    with race(tmp_path) as racers:
        with migrating.migration_connection(engine) as connection, locks.migration_lock(connection):
            racers.start(database.url)
            until(lambda: racers.waiting() == SERVERS, racers.logs)
        assert max(racers.finish()) == SERVERS
    assert session_ids(database) == [f"session-{place}" for place in range(SERVERS)]


def test_the_command_waits_for_a_server(database: Database, engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as output, migrating.migration_connection(engine) as connection:
        with locks.migration_lock(connection):
            command = start(
                ["-m", "alembic", "upgrade", "head"],
                cwd=ROOT,
                env=surroundings(tmp_path, JUPYTER_SESSION_STORE_URL=database.url),
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
            until(lambda: WAITING in log.read_text() or command.poll() is not None, log.read_text)
        command.wait(_PATIENCE)
    assert command.returncode == 0, log.read_text()
    assert WAITING in log.read_text()
    assert status(engine).state is State.CURRENT


def until(condition: Callable[[], bool], explain: Callable[[], object]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)


@pytest.mark.torture
def test_threads_of_one_process_all_come_up(database: Database) -> None:
    """As where several servers are embedded in one process."""
    barrier = threading.Barrier(THREADS)
    failures: list[BaseException] = []

    async def use(name: str) -> None:
        mine, deadline = record(name), time.monotonic() + _PATIENCE
        with opened(database.url) as repository:
            added = False
            while not added:
                # On a busy machine the others' migration may take longer than a request waits.
                try:
                    await repository.add(mine)
                    added = True
                except StoreUnavailable:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
            assert [one.session_id for one in await repository.find(SCOPE, session_id=name)]

    def start(place: int) -> None:
        barrier.wait()
        try:
            asyncio.run(use(f"session-{place:02}"))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(place,)) for place in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert session_ids(database) == [f"session-{place:02}" for place in range(THREADS)]


@pytest.mark.torture
def test_threads_that_upgrade_one_database_each(
    new_database: Callable[[], Database],
) -> None:
    """Alembic keeps the migration that runs in a global variable."""
    databases = [new_database() for _ in range(4)]
    barrier = threading.Barrier(len(databases))
    outcomes: dict[str, object] = {}

    def start(database: Database) -> None:
        with engine_of(database.url) as engine:
            barrier.wait()
            try:
                outcomes[database.url] = starting.ensure(engine, "safe").state
            except BaseException as error:
                outcomes[database.url] = error

    threads = [threading.Thread(target=start, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {database.url: State.CURRENT for database in databases}


HOLDER: Final = """if True:
    import os
    from jupyter_session_store.errors import StoreUnavailable
    from jupyter_session_store.sql.schema import locks, migrating
    from tests.migrations.support import engine_of
    with engine_of(os.environ["DATABASE"]) as engine:
        with migrating.migration_connection(engine) as connection:
            try:
                with locks.migration_lock(connection, timeout=0.5):
                    print("had it")
            except StoreUnavailable as error:
                print(error)
"""


def test_the_lock_is_not_waited_for_without_end(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    with migrating.migration_connection(engine) as connection, locks.migration_lock(connection):
        refused = run_python("-c", HOLDER, home=tmp_path, DATABASE=database.url)
        assert "another process has held the migration lock for 0.5 s" in refused.stdout
        assert "Look for a hanging alembic or jupyter server" in refused.stdout
        with (
            pytest.raises(StoreUnavailable, match="migration lock"),
            engine_of(database.url) as other,
            migrating.migration_connection(other) as second,
            locks.migration_lock(second, timeout=0.2),
        ):
            raise AssertionError("two threads held the lock")
    had = run_python("-c", HOLDER, home=tmp_path, DATABASE=database.url)
    assert had.stdout == "had it\n"


@pytest.mark.only("postgresql", "mysql", reason="nobody sees an upgrade of a file half way")
def test_who_would_be_refused_waits_for_an_upgrade_that_is_between_two_revisions(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A new database looks there like one that is behind, which a server does not upgrade."""
    between, go_on = threading.Event(), threading.Event()

    def pause(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("ALTER TABLE"):
            between.set()
            assert go_on.wait(_PATIENCE)

    caplog.set_level(logging.INFO)
    with engine_of(database.url) as other, ThreadPoolExecutor(2) as threads:
        event.listen(other, "before_cursor_execute", pause)
        upgrading = threads.submit(migrating.upgrade, other)
        try:
            assert between.wait(_PATIENCE)
            assert status(engine).state is State.BEHIND
            waiting = threads.submit(starting.ensure, engine, "safe")
            until(lambda: WAITING in caplog.text or waiting.done(), lambda: caplog.text)
        finally:
            go_on.set()
        assert waiting.result(_PATIENCE).state is State.CURRENT
        upgrading.result(_PATIENCE)


@pytest.mark.only("postgresql", "mysql", reason="nobody sees an upgrade of a file half way")
def test_an_upgrade_is_not_waited_for_without_end(database: Database, engine: Engine) -> None:
    with engine_of(database.url) as other, other.connect() as looking:
        locks.wait_for_migration(looking, timeout=0)
        with (
            migrating.migration_connection(engine) as connection,
            locks.migration_lock(connection),
            pytest.raises(StoreUnavailable, match=r"held the migration lock for 0\.2 s"),
        ):
            locks.wait_for_migration(looking, timeout=0.2)
        locks.wait_for_migration(looking, timeout=0)


def test_a_migration_that_fails_frees_the_lock(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    with (
        migrating.migration_connection(engine) as connection,
        pytest.raises(ZeroDivisionError),
        locks.migration_lock(connection),
    ):
        raise ZeroDivisionError
    with migrating.migration_connection(engine):
        had = run_python("-c", HOLDER, home=tmp_path, DATABASE=database.url)
    assert had.stdout == "had it\n"


def test_two_databases_of_one_server_do_not_wait_for_each_other(
    engine: Engine, new_database: Callable[[], Database], tmp_path: Path
) -> None:
    other = new_database()
    with migrating.migration_connection(engine) as connection, locks.migration_lock(connection):
        had = run_python("-c", HOLDER, home=tmp_path, DATABASE=other.url)
    assert had.stdout == "had it\n"
