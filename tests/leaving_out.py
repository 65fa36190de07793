"""What `make test` leaves out and `make test-all` runs, and the last line of a run, which says so.

A test that takes long, and shows what others show in part, is marked
``@pytest.mark.extended("why")``: it runs with ``--extended`` alone, and with
``all_rounds=True`` only where all rounds are run. So does the larger part of the rounds
of a test that repeats a race, marked ``torture``.

A test with as many cases as there are kinds of databases, or more, runs each case on one
kind, in turn, and the other pairs of a case and a kind with ``--extended``. So does a test
that is marked ``spread``, because what it shows comes from no database: it runs on one kind.
With ``--spread`` all tests do.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import pytest

T = TypeVar("T")

#: The part of its rounds that a test runs which names a number of them.
_FRACTION: Final = 0.02
#: The same with ``--extended``.
_LARGER_FRACTION: Final = 0.05
_ROUNDS: Final = "--rounds-fraction"
#: The part of a run in which the tests that may take long begin.
_SPREAD_OVER: Final = 0.9
_ELSEWHERE: Final = "a case on another database"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--extended",
        action="store_true",
        help="run what a run without this leaves out, and nothing else",
    )
    parser.addoption(
        "--spread",
        action="store_true",
        help="run each case of each test on one kind of database",
    )
    parser.addoption(
        _ROUNDS,
        type=float,
        help="the part of its rounds that a test runs which names a number of them; 1 for all "
        f"(default: {_FRACTION}, with --extended {_LARGER_FRACTION})",
    )


class LeavingOut:
    """Deselects the tests that a run is not for, and counts them for its last line.

    Parameters
    ----------
    config : pytest.Config
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._extended: bool = config.getoption("--extended")
        self._spread: bool = config.getoption("--spread")
        given: float | None = config.getoption(_ROUNDS)
        usual = _LARGER_FRACTION if self._extended else _FRACTION
        self.fraction = usual if given is None else given
        #: How many tests were left out, by why.
        self._left_out: Counter[str] = Counter()
        #: What runs on a kind of database that its case is not run on here.
        self._elsewhere: frozenset[pytest.Item] = frozenset()
        #: How many tests run not all of their rounds.
        self._repeating = 0
        #: How many tests run a part of their cases.
        self._sharing = 0

    def share(self, cases: Sequence[T], index: int, number: int) -> Sequence[T]:
        """Return every `number`-th case from `index` on, or with ``--extended`` all."""
        return cases if self._extended or self.fraction >= 1 else cases[index::number]

    def rounds(self, number: int) -> int:
        """Return how many of so many rounds to run: at least one."""
        return max(1, round(number * self.fraction))

    # After -k and -m have taken away what the user does not ask for.
    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._elsewhere = elsewhere(items, every=self._spread)
        left = [item for item in items if not self._is_for(item)]
        if not self._extended:
            # `make test-all` does not run those that want all rounds.
            self._left_out.update(_why(one) for one in left if not _wants_all_rounds(one))
        items[:] = mixed(filter(self._is_for, items))
        self._repeating = sum(map(_repeats, items))
        self._sharing = sum(map(_shares, items))
        self._config.hook.pytest_deselected(items=left)

    def _is_for(self, item: pytest.Item) -> bool:
        if item.get_closest_marker("extended") is not None:
            return self._extended and (self.fraction >= 1 or not _wants_all_rounds(item))
        if item in self._elsewhere:
            return not self._spread and (self._extended or self.fraction >= 1)
        # One without rounds would do again what it does without this.
        return not self._extended or _repeats(item) or _shares(item) or self.fraction >= 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # A process of pytest-xdist: the one that prints the line collects nothing itself.
        told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if told is not None:
            told["left_out"] = dict(self._left_out)
            told["repeating"] = self._repeating
            told["sharing"] = self._sharing

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        told: dict[str, Any] = getattr(node, "workeroutput", {})
        if "left_out" in told:
            # Each process has collected, and left out, the same.
            self._left_out = Counter(told["left_out"])
            self._repeating = told["repeating"]
            self._sharing = told["sharing"]

    def line(self) -> str:
        """Return what a run has left out; nothing if nothing."""
        if self._extended:
            return ""
        parts = [f"{number_of(count)} ({why})" for why, count in sorted(self._left_out.items())]
        if self._repeating and self.fraction < 1:
            rest = round(100 * (1 - self.fraction))
            parts.append(f"{rest} % of the rounds of {number_of(self._repeating)}")
        if self._sharing and self.fraction < 1:
            parts.append(f"the cases that another database has of {number_of(self._sharing)}")
        return f"Left out: {', '.join(parts)}. `make test-all` runs them." if parts else ""

    # After the summary, which ends with a line of pytest's own.
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self.line():
            reporter.write_line(self.line())


def mixed(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return tests in the order in which processes that share them are done soonest.

    Those that may take long begin before the others end: a process that is left with one at the
    end keeps all others waiting. But they wait more than they work, for servers and for time to
    pass, and the others work while they wait: so they are spread among these.
    The tests of a module are apart then: what several of them use is a fixture of the session.
    """
    ordered = sorted(items, key=_patience, reverse=True)
    count = sum(_patience(item) > 0 for item in ordered)
    others = len(ordered) - count
    places = [_SPREAD_OVER * number / count for number in range(count)]
    places += [number / others for number in range(others)]
    order = sorted(range(len(ordered)), key=places.__getitem__)
    return [ordered[place] for place in order]


def elsewhere(items: Sequence[pytest.Item], *, every: bool = False) -> frozenset[pytest.Item]:
    """Return what a run leaves out that runs each case on one kind of database.

    Parameters
    ----------
    items : sequence
        All tests, in the order of their definition.
    every : bool
        Whether tests with few cases do so, too, that are not marked.
    """
    cases: dict[str, dict[str, dict[str, pytest.Item]]] = {}
    for item in items:
        kind = _kind(item)
        if kind is not None:
            name = item.nodeid.partition("[")[0]
            case = item.nodeid[len(name) :].replace(kind, "", 1)
            cases.setdefault(name, {}).setdefault(case, {})[kind] = item
    left: set[pytest.Item] = set()
    for name, kinds_of_case in cases.items():
        for number, kinds in enumerate(kinds_of_case.values(), zlib.crc32(name.encode())):
            first = next(iter(kinds.values()))
            marked = first.get_closest_marker("spread") is not None
            if every or marked or len(kinds_of_case) >= len(kinds):
                here = sorted(kinds)[number % len(kinds)]
                left.update(item for kind, item in kinds.items() if kind != here)
    return frozenset(left)


def _kind(item: pytest.Item) -> str | None:
    """Return the kind of database that a test runs on, if it is one of several."""
    call: Any = getattr(item, "callspec", None)
    kind = call.params.get("kind") if call is not None else None
    return kind if isinstance(kind, str) else None


def number_of(count: int) -> str:
    return "1 test" if count == 1 else f"{count} tests"


def _repeats(item: pytest.Item) -> bool:
    takes_rounds = isinstance(item, pytest.Function) and "rounds" in item.fixturenames
    return takes_rounds and item.get_closest_marker("torture") is not None


def _shares(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "share" in item.fixturenames


def _patience(item: pytest.Item) -> float:
    # A mark with no more than the default says that the test is one of the long ones, too.
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None else 0.0


def _wants_all_rounds(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("extended")
    return marker is not None and bool(marker.kwargs.get("all_rounds"))


def _why(item: pytest.Item) -> str:
    marker = item.get_closest_marker("extended")
    return _ELSEWHERE if marker is None else str(marker.args[0])


@pytest.fixture
def rounds(pytestconfig: pytest.Config) -> Callable[[int], int]:
    """How many of so many rounds to run: at least one."""
    plugin = pytestconfig.pluginmanager.get_plugin("leaving-out")
    assert isinstance(plugin, LeavingOut)
    return plugin.rounds


@pytest.fixture
def share(pytestconfig: pytest.Config, kind: str) -> Callable[..., Sequence[Any]]:
    """Those of some cases that this database has to run: in `make test` they are divided."""
    plugin = pytestconfig.pluginmanager.get_plugin("leaving-out")
    assert isinstance(plugin, LeavingOut)

    def of(cases: Sequence[T], databases: Sequence[str]) -> Sequence[T]:
        return plugin.share(cases, databases.index(kind), len(databases))

    return of


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist starts its processes
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeavingOut(config), "leaving-out")
