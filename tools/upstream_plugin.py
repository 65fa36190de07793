"""A pytest plugin: jupyter_server's tests of sessions, on PersistentSessionManager.

Loaded with ``-p`` before any test module, so that they all import the
replacement. Each test has an empty database of its own, which the manager finds
by itself through ``JUPYTER_SESSION_STORE_URL``. The rows that the tests insert
are counted, and a test that ought to have inserted one and did not is an error.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jupyter_server.serverapp
import pytest
from jupyter_client.manager import KernelManager
from jupyter_server.services.sessions import sessionmanager
from sqlalchemy import Engine, event

from jupyter_session_store import PersistentSessionManager

# What the test modules import, and what ServerApp's default is made of.
sessionmanager.SessionManager = PersistentSessionManager  # type: ignore[misc]
jupyter_server.serverapp.SessionManager = PersistentSessionManager  # type: ignore[attr-defined]

#: Tests that give the manager a SQLite file of their own, whatever the database of the run.
OWN_FILE = frozenset({"test_good_database_filepath", "test_session_persistence"})

#: Tests in which no session is saved: they test records, or that something is refused.
NO_SESSION = frozenset(
    {
        "test_bad_database_filepath",
        "test_create_bad",
        "test_create_session_duplicate_kernel_id_returns_409",
        "test_kernel_record_equals",
        "test_kernel_record_list",
        "test_kernel_record_update",
    }
)

#: Tests that return at once under a kernel manager which they are not about.
ONLY_WITH_PENDING_KERNELS = frozenset({"test_create_bad_pending"})

#: Most tests in this file are not about sessions. Those that are call its ``create_session``.
GATEWAY = "test_gateway.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the database."""
    parser.addoption("--session-store", required=True, help="sqlite, postgresql or mysql")


def pytest_configure(config: pytest.Config) -> None:
    """Register the part that keeps count."""
    store = Store(config.getoption("--session-store"))
    config.stash[_STORE] = store
    config.pluginmanager.register(store, "session-store")


@cache
def _databases() -> ModuleType:
    """Import the project's tests/databases, under a name that is not upstream's ``tests``."""
    folder = Path(__file__).resolve().parent.parent / "tests" / "databases"
    spec = importlib.util.spec_from_file_location(
        "session_store_databases", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise pytest.UsageError(f"{folder} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Store:
    """Gives each test a database, and counts the rows that go there.

    Parameters
    ----------
    kind : str
        Of the databases.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        #: The rows that the running test inserted, by the name of the database.
        self.inserted: Counter[str] = Counter()
        self.found: dict[str, int] = {}
        self.elsewhere: dict[str, int] = {}
        self.without: list[str] = []
        self.delayed: list[str] = []
        event.listen(Engine, "after_cursor_execute", self._count)

    def _count(self, connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lstrip().upper().startswith("INSERT INTO JUPYTER_SESSIONS "):
            self.inserted[str(connection.engine.url.database)] += 1

    def judge(self, item: pytest.Function, name: str, database: Any) -> None:
        """Fail a test that ought to have stored a session in its database and did not."""
        here, total = self.inserted[name], sum(self.inserted.values())
        test = item.originalname
        if here:
            # Straight through the driver: the table is in this database, and nowhere else.
            database.rows("SELECT count(*) FROM jupyter_sessions")
            self.found[item.nodeid] = here
        elif test in OWN_FILE and total:
            self.elsewhere[item.nodeid] = total
        elif (
            test in NO_SESSION
            or (test in ONLY_WITH_PENDING_KERNELS and not _pending(item))
            or (item.path.name == GATEWAY and not calls(item, "create_session"))
        ):
            self.without.append(item.nodeid)
        else:
            pytest.fail(f"No session was stored in the database of the test ({self.kind}).")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Give each test more than its 10 s, of which making a database takes a part."""
        for item in items:
            # The first mark is the one that counts.
            item.add_marker(pytest.mark.timeout(120), append=False)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that stored nothing."""
        # A second attempt may be at tests that store nothing.
        idle = not self.found and not session.config.getoption("lf")
        if idle and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the sessions of the tests went."""
        terminalreporter.section(f"session store: {self.kind}")
        write = terminalreporter.write_line
        write(
            f"{sum(self.found.values())} sessions of {len(self.found)} tests were inserted into "
            f"a {self.kind} database of the test's own."
        )
        for reason, tests in (
            ("gave a SQLite file of its own", self.elsewhere),
            ("its pending kernel was launched 1 s later", self.delayed),
            ("saved no session", self.without),
        ):
            functions = Counter(test.rpartition("::")[2].partition("[")[0] for test in tests)
            for function, number in functions.items():
                write(f"{reason}: {function} ({number})")


def calls(item: pytest.Function, *helpers: str) -> bool:
    """Return whether a test names one of its module's helpers."""
    code = inspect.unwrap(item.function).__code__
    return not set(helpers).isdisjoint(code.co_names)


def _pending(item: pytest.Function) -> bool:
    config = getattr(item, "callspec").params.get("jp_server_config", {})  # noqa: B009
    return bool(config.get("AsyncMappingKernelManager", {}).get("use_pending_kernels"))


_STORE = pytest.StashKey[Store]()


@pytest.fixture(scope="session")
def session_store_server(pytestconfig: pytest.Config) -> Iterator[Any]:
    """Yield a server in which each test gets a database; ``None`` for SQLite."""
    kind = pytestconfig.stash[_STORE].kind
    if kind == "sqlite":
        yield None
        return
    with closing(_databases().shared_server(kind)) as server:
        yield server


@pytest.fixture(autouse=True)
def slow_pending_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a pending kernel take its time in the test that asserts that it is still pending.

    Upstream the POST returns before the kernel's launch has had a turn on the
    event loop, because the stock manager saves without leaving it. Here the
    two race, and what the test is about, that POST does not wait for the
    kernel, needs a kernel that is slower than a database.
    """
    if request.node.originalname != "test_create" or not _pending(request.node):
        return
    launch = KernelManager._async_launch_kernel

    async def launch_late(self: KernelManager, *args: Any, **kwargs: Any) -> None:
        await asyncio.sleep(1)
        await launch(self, *args, **kwargs)

    monkeypatch.setattr(KernelManager, "_async_launch_kernel", launch_late)
    request.config.stash[_STORE].delayed.append(request.node.nodeid)


@pytest.fixture(autouse=True)
def session_store(
    session_store_server: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Give the test its database, and see what went there."""
    store = request.config.stash[_STORE]
    if session_store_server is None:
        name = str(tmp_path / "session-store.db")
        database = _databases().Database("sqlite", f"sqlite:///{name}")
    else:
        database = session_store_server.create_database()
        name = database.url.rpartition("/")[2]
    monkeypatch.setenv("JUPYTER_SESSION_STORE_URL", database.url)
    store.inserted.clear()
    yield
    try:
        store.judge(request.node, name, database)
    finally:
        if session_store_server is not None:
            session_store_server.drop_database(database)
