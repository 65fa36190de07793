"""The speed to reach, each as a figure of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .idle import DRIVER, KEPT, NOBODY
from .memory import FIRST, LATER
from .operations import GROWTH
from .outage import MEASURES as OUTAGE
from .outliving import ALL_FOUND, FOUND, NONE_FOUND, OUTLIVING, STOCK_KERNELS
from .peers import BARE, OURS, STOCK
from .results import Results
from .transfer import ROWS as TRANSFERRED


@dataclass(frozen=True)
class Target:
    """A figure and its limit."""

    text: str
    limit: float
    measure: Callable[[Results], float | None]
    at_least: bool = False
    unit: str = " times"

    def met(self, value: float) -> bool:
        """Return whether `value` keeps to the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


def _ratio(
    suite: str,
    measure: str,
    of: tuple[str, str],
    to: tuple[str, str],
    other_measure: str | None = None,
) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        upper = results.median(suite, *of, measure)
        lower = results.median(suite, *to, other_measure or measure)
        return upper / lower if upper is not None and lower else None

    return calculate


def _growth(database: str, measure: str) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        medians = [results.median("growth", OURS, database, measure, rows=rows) for rows in GROWTH]
        found = [median for median in medians if median is not None]
        return found[-1] / found[0] if len(found) > 1 else None

    return calculate


def _stall(database: str, measure: str) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        samples = results.get("stall", OURS, database, measure)
        return max(samples) / 1000 if samples else None

    return calculate


def _prune(database: str) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        samples = results.get("prune", OURS, database, "write, beside the prune")
        return max(samples) / 1000 if samples else None

    return calculate


def _transfer(database: str, measure: str) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        ours, plain = (
            results.median("transfer", kind, database, measure, rows=TRANSFERRED)
            for kind in (OURS, BARE)
        )
        return plain / ours if ours and plain else None

    return calculate


def _outliving(measure: str) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        stock, ours = (
            results.median("outliving", OURS, "sqlite", f"{name}: {measure}")
            for name in (STOCK_KERNELS, OUTLIVING)
        )
        return None if stock is None or ours is None else ours - stock

    return calculate


def _found_kernels(results: Results) -> float | None:
    none, found = (
        results.median("outliving", OURS, "sqlite", title) for title in (NONE_FOUND, ALL_FOUND)
    )
    return None if none is None or found is None else found - none


def _replicas(
    measure: str, share: float = 1.0, unit: float = 1.0
) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        # A quick run has fewer servers, which say nothing of a thousand.
        if results.get("replicas", *_POSTGRESQL, "servers") != [1000.0]:
            return None
        if not results.get("replicas", *_POSTGRESQL, measure):
            return None
        return results.percentile("replicas", *_POSTGRESQL, measure, share) / unit

    return calculate


def _over_stock(start: str, database: str) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        ours, stock = (
            results.median("memory", *peer, f"{start}: private")
            for peer in ((OURS, database), _STOCK)
        )
        return None if ours is None or stock is None else ours - stock

    return calculate


def _idle(database: str) -> Callable[[Results], float | None]:
    def calculate(results: Results) -> float | None:
        kept, nobody = (
            results.median("idle", OURS, database, f"{mode}: processor ms")
            for mode in (KEPT, NOBODY)
        )
        # A quick run renews far more often than servers do.
        if kept is None or nobody is None:
            return None
        return None if results.get("idle", OURS, database, "servers") != [50.0] else kept - nobody

    return calculate


_SQLITE: Final = (OURS, "sqlite")
_POSTGRESQL: Final = (OURS, "postgresql")
_STOCK: Final = (STOCK, "sqlite")
_TITLES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL/MariaDB"}

TARGETS: Final = (
    *(
        Target(
            f"{measure}, SQLite: as fast as stock",
            limit,
            _ratio("operations", measure, _STOCK, _SQLITE),
            at_least=True,
        )
        for measure, limit in (("create", 2.0), ("update", 3.0), ("delete", 2.0))
    ),
    *(
        Target(
            f"{measure} (REST), {title}: time of stock",
            # The target is 1; a run's noise is 5 %.
            1.05,
            _ratio("rest", measure, (OURS, database), _STOCK),
        )
        for database, title in _TITLES.items()
        for measure in ("GET one", "GET list of 10", "GET list of 100", "GET list of 1,000")
    ),
    *(
        Target(
            f"{measure}, {title}: time of stock",
            0.7,
            _ratio("operations", measure, (OURS, database), _STOCK),
        )
        for database, title in _TITLES.items()
        for measure in ("exists", "get", "list of 10", "list of 100", "list of 1,000")
    ),
    *(
        Target(
            f"{measure}, {title}: time of the bare driver",
            1.4,
            _ratio("operations", measure, (OURS, database), (BARE, database)),
        )
        for database, title in _TITLES.items()
        for measure in ("create", "update", "delete")
    ),
    *(
        Target(f"{measure}, {title}: largest table to smallest", 1.5, _growth(database, measure))
        for database, title in _TITLES.items()
        for measure in ("exists", "get")
    ),
    *(
        Target(
            f"event loop in an outage, {title}: {words}, of the stock server's",
            1.0,
            _ratio("outage", measure, (OURS, database), _STOCK),
        )
        for database, title in _TITLES.items()
        for measure, words in OUTAGE.items()
    ),
    *(
        Target(
            f"event loop stalled, {title}: {measure}", 50.0, _stall(database, measure), unit=" ms"
        )
        for database, title in _TITLES.items()
        for measure in ("GET, locked", "PATCH, locked")
    ),
    *(
        Target(
            f"start-up, {title}: time of stock",
            limit,
            _ratio("startup", "to the first answer", (OURS, database), _STOCK),
        )
        for database, title, limit in (
            ("sqlite", "SQLite", 1.15),
            ("postgresql", "PostgreSQL", 1.35),
        )
    ),
    *(
        Target(
            f"processor time of a {start}, {title}: of stock's",
            limit,
            _ratio("memory", f"{start}: processor", (OURS, database), _STOCK),
        )
        for start in (FIRST, LATER)
        for database, title, limit in (
            ("sqlite", "SQLite", 1.15),
            ("postgresql", "PostgreSQL", 1.2),
        )
    ),
    *(
        Target(
            f"private memory after a {start}, {title}: over stock",
            limit,
            _over_stock(start, database),
            unit=" MiB",
        )
        for start in (FIRST, LATER)
        for database, title, limit in (
            ("sqlite", "SQLite", 21.0),
            ("postgresql", "PostgreSQL", 31.0),
        )
    ),
    *(
        Target(
            f"an idle server, {title}, its connection kept: processor time of the database a "
            "minute, of the bare driver's same statements",
            1.2,
            _ratio(
                "idle",
                f"{KEPT}: processor ms",
                (OURS, database),
                (OURS, database),
                f"{DRIVER}: processor ms",
            ),
        )
        for database, title in (("postgresql", "PostgreSQL"), ("mysql", "MySQL/MariaDB"))
    ),
    *(
        Target(
            f"an idle server, {title}, its connection kept: processor time of the database a "
            "minute, over nobody's",
            0.6,
            _idle(database),
            unit=" ms",
        )
        for database, title in (("postgresql", "PostgreSQL"), ("mysql", "MySQL/MariaDB"))
    ),
    *(
        Target(f"longest write beside a prune, {title}", 100.0, _prune(database), unit=" ms")
        for database, title in _TITLES.items()
    ),
    *(
        Target(
            f"{measure}, {title}: as fast as a plain executemany",
            0.8,
            _transfer(database, measure),
            at_least=True,
        )
        for database, title in _TITLES.items()
        for measure in ("copy from SQLite", "copy to SQLite", "import")
    ),
    Target(
        "1,000 servers through PgBouncer, PostgreSQL: 99th percentile of a list",
        50.0,
        _replicas("list", 0.99, 1000.0),
        unit=" ms",
    ),
    Target(
        "1,000 servers through PgBouncer, PostgreSQL: errors",
        0.0,
        _replicas("errors"),
        unit="",
    ),
    Target(
        "1,000 servers through PgBouncer, PostgreSQL: connections to it",
        90.0,
        _replicas("connections"),
        unit="",
    ),
    *(
        Target(f"{what}, where it is recorded, later by", limit, _outliving(what), unit=" ms")
        for what, limit in (("start of a kernel", 5.0), ("create", 2.0), ("rename", 2.0))
    ),
    Target(
        f"start of a server that finds {FOUND} kernels, later by",
        1.0,
        _found_kernels,
        unit=" s",
    ),
)
