"""The fixtures that give a test its database, and the proof that no database is left out.

A test that takes ``kind``, or a fixture that rests on it (``database``,
``new_database``, ``own_server``), runs once for each of the three kinds. One that is
for fewer is marked ``@pytest.mark.only("postgresql", "mysql", reason="...")``. The run
fails at collection where the kinds differ otherwise, and at its end where a test of a
kind was skipped.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from . import KINDS, Database, Instance, NoDatabase, Server, private_server, shared_server

S = TypeVar("S", bound=Server)


class Servers:
    """The servers that the tests of one process share, each started at its first use.

    Parameters
    ----------
    session : pytest.Session
        Fails and ends where there is no server.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._servers: dict[str, Server] = {}
        self._missing: dict[str, str] = {}

    def get(self, kind: str) -> Server:
        """Return the server of a kind, which all tests share."""
        if kind not in self._servers:
            self._servers[kind] = self._or_end(shared_server, kind)
        return self._servers[kind]

    def new(self, kind: str) -> Instance:
        """Return a server for the caller alone, who closes it."""
        return self._or_end(private_server, kind)

    def close(self) -> None:
        """End those that all tests share."""
        for server in self._servers.values():
            server.close()

    def _or_end(self, make: Callable[[str], S], kind: str) -> S:
        if kind not in self._missing:
            try:
                return make(kind)
            except NoDatabase as error:
                self._missing[kind] = str(error)
        # Not pytest.exit: the teardown of tmp_path then hides the reason (pytest 9), and
        # pytest-xdist reports a crashed worker.
        self._session.shouldfail = f"no {kind} for the tests"
        pytest.fail(self._missing[kind], pytrace=False)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """The servers of this process."""
    servers = Servers(request.session)
    yield servers
    servers.close()


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database that this run of the test is for."""
    return str(request.param)


@pytest.fixture
def new_database(
    kind: str,
    servers: Servers,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Iterator[Callable[[], Database]]:
    """A function that returns another empty database each time, gone after the test."""
    made: list[Database] = []

    def new() -> Database:
        if kind == "sqlite":
            made.append(Database(kind, f"sqlite:///{tmp_path}/sessions-{len(made)}.db"))
        else:
            made.append(servers.get(kind).lend_database())
        return made[-1]

    yield new
    if made and kind != "sqlite":
        server = servers.get(kind)
        record_property("server", f"{server.version()}, {server.origin}")
        for database in made:
            server.take_back(database)


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    """An empty database that belongs to the test."""
    return new_database()


@pytest.fixture
def own_server(kind: str, servers: Servers) -> Iterator[Instance]:
    """A server that belongs to the test, which may stop, kill and restart it."""
    if kind == "sqlite":
        raise pytest.UsageError(
            'SQLite has no server: mark the test only("postgresql", "mysql", reason=...).'
        )
    server = servers.new(kind)
    yield server
    server.close()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "only(*kinds, reason): the test is for these kinds of database alone"
    )
    config.pluginmanager.register(Parity(), "database-parity")


@pytest.hookimpl(tryfirst=True)  # so that the kind comes first in a test's id
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" not in metafunc.fixturenames or _names_kind(metafunc):
        return
    only = metafunc.definition.get_closest_marker("only")
    metafunc.parametrize("kind", (only and only.args) or KINDS, indirect=True)


def _names_kind(metafunc: pytest.Metafunc) -> bool:
    """Whether a test sets the kinds by itself. The parity check judges what it set."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        if "kind" in (re.split(r"\s*,\s*", names) if isinstance(names, str) else names):
            return True
    return False


class Parity:
    """Compares the tests of the kinds when they are collected, and counts them at the end."""

    def __init__(self) -> None:
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._servers: defaultdict[str, set[str]] = defaultdict(set)
        self._only: defaultdict[str, set[str]] = defaultdict(set)
        self._skipped: list[str] = []

    # Innermost, so that neither --last-failed nor a test's id on the command line has
    # taken anything away yet; both do so as early as at collection.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        functions = [item for item in report.result or () if isinstance(item, pytest.Function)]
        wrong = _differences(functions)
        if wrong:
            # A failed report, not an exception: pytest-xdist shows only the former.
            report.outcome = "failed"
            report.longrepr = "The tests differ from one kind of database to another.\n" + wrong
            report.result = []
        return report

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        kind = _kind(item) if isinstance(item, pytest.Function) else None
        if kind:
            item.user_properties.append(("kind", kind))
            only = item.get_closest_marker("only")
            if only:
                why = f"{', '.join(only.args)}: {only.kwargs['reason']}"
                item.user_properties.append(("only", why))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:  # a whole module, and nobody knows what is in it
            self._skipped.append(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        kind = properties.get("kind")
        if kind is None:
            return
        if "only" in properties:
            self._only[str(properties["only"])].add(report.nodeid.partition("[")[0])
        if "server" in properties:
            self._servers[str(kind)].add(str(properties["server"]))
        if report.skipped:
            self._outcomes[str(kind)]["skipped"] += 1
            self._skipped.append(report.nodeid)
        elif report.failed:
            self._outcomes[str(kind)]["failed"] += 1
        elif report.when == "call":
            self._outcomes[str(kind)]["passed"] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._outcomes and not self._skipped:
            return
        terminalreporter.section("databases")
        for kind in KINDS:
            counts = self._outcomes[kind]
            line = ", ".join(
                f"{counts[word]} {word}"
                for word in ("passed", "failed", "skipped")
                if counts[word] or word == "passed"
            )
            servers = "; ".join(sorted(self._servers[kind]))
            terminalreporter.write_line(f"{kind}: {line}{servers and f' ({servers})'}")
        for why, functions in sorted(self._only.items()):
            terminalreporter.write_line(f"only {why}")
            for function in sorted(functions):
                terminalreporter.write_line(f"  {function}")
        for nodeid in self._skipped:
            terminalreporter.write_line(f"SKIPPED, which fails the run: {nodeid}", red=True)


def _kind(test: pytest.Function) -> str | None:
    if "kind" not in test.fixturenames or not hasattr(test, "callspec"):
        return None
    return str(test.callspec.params["kind"])


def _differences(tests: Iterable[pytest.Function]) -> str:
    """Return what is wrong with the kinds of some tests; nothing if nothing is."""
    collected: defaultdict[str, set[str]] = defaultdict(set)
    expected: dict[str, set[str]] = {}
    wrong: set[str] = set()
    for test in tests:
        kind = _kind(test)
        if kind is None:
            continue
        name, _, parameters = test.name.partition("[")
        family = f"{name}[{re.sub(rf'(?<![^-]){kind}', '*', parameters, count=1)}"
        only = test.get_closest_marker("only")
        collected[family].add(kind)
        expected[family] = set(only.args if only else KINDS)
        if only and not (set() < expected[family] < set(KINDS) and only.kwargs.get("reason")):
            wrong.add(f"{name}: its mark `only` names no reason, or not just some of the kinds")
    wrong |= {
        f"{family}: collected for {_join(collected[family])}; expected for {_join(kinds)}, "
        "or the mark `only(*kinds, reason=...)`"
        for family, kinds in expected.items()
        if collected[family] != kinds
    }
    return "\n".join(sorted(wrong))


def _join(kinds: set[str]) -> str:
    return ", ".join(kind for kind in KINDS if kind in kinds) or "none"
