"""The figures of a run as tables, in text and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from . import idle, memory, outage, outliving
from .operations import GROWTH
from .peers import BARE, NAIVE, OURS, STOCK
from .replicas import CONNECTIONS, ROWS
from .results import Results
from .targets import TARGETS

TITLES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL/MariaDB"}


@dataclass(frozen=True)
class Table:
    """A table with a title and a remark."""

    title: str
    header: list[str]
    rows: list[list[str]]
    remark: str = ""

    def text(self) -> str:
        """Return the table for a terminal."""
        widths = [max(len(row[i]) for row in [self.header, *self.rows]) for i in self._columns()]
        lines = [self.title, "=" * len(self.title)]
        if self.remark:
            lines += [self.remark, ""]
        for row in [self.header, ["-" * width for width in widths], *self.rows]:
            cells = [row[0].ljust(widths[0])]
            cells += [row[i].rjust(widths[i]) for i in self._columns()[1:]]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"## {self.title}", ""]
        if self.remark:
            lines += [self.remark, ""]
        rule = ["---", *("---:" for _ in self.header[1:])]
        lines += [f"| {' | '.join(row)} |" for row in [self.header, rule, *self.rows]]
        return "\n".join(lines)

    def _columns(self) -> range:
        return range(len(self.header))


def microseconds(value: float | None) -> str:
    """Return a duration with three digits and its unit."""
    if value is None:
        return "-"
    for unit, size in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        if value < 999.5 * size or unit == "s":
            number = value / size
            return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"
    raise AssertionError


def ratio(value: float | None, base: float | None) -> str:
    """Return how many times `base` a `value` is."""
    return f"{value / base:.2f}" if value is not None and base else "-"


def _measures(results: Results, suite: str) -> list[str]:
    return list(dict.fromkeys(key.measure for key in results.samples if key.suite == suite))


def _columns(results: Results, suite: str) -> list[tuple[str, str]]:
    """Return the peers of a suite, by database, in a fixed order."""
    kinds = (STOCK, OURS, NAIVE, BARE)
    found = {(key.kind, key.database) for key in results.samples if key.suite == suite}
    return sorted(
        (column for column in found if column[0] in kinds),
        key=lambda column: (list(TITLES).index(column[1]), kinds.index(column[0])),
    )


def _count(results: Results, suite: str) -> str:
    counts = [len(samples) for key, samples in results.samples.items() if key.suite == suite]
    least, most = min(counts), max(counts)
    return f"{most}" if least == most else f"{least} to {most}"


def _medians(results: Results, suite: str, title: str, remark: str) -> Table:
    columns = _columns(results, suite)
    rows = [
        [measure] + [microseconds(results.median(suite, *column, measure)) for column in columns]
        for measure in _measures(results, suite)
        if measure != "thread hop"
    ]
    header = ["median", *(f"{kind} {TITLES[name]}" for kind, name in columns)]
    return Table(title, header, rows, remark)


def _operations(results: Results) -> Iterable[Table]:
    hop = microseconds(results.median("operations", "hop", "none", "thread hop"))
    yield _medians(
        results,
        "operations",
        "Operations of the manager",
        "Ten sessions in the table, but for the longer lists. "
        f"{_count(results, 'operations')} samples of each. "
        f"The hop to a thread and back alone: {hop}.",
    )
    rows = []
    names = {name for _, name in _columns(results, "operations")}
    databases = [name for name in TITLES if name in names]
    for measure in _measures(results, "operations"):
        if measure == "thread hop":
            continue
        medians = {
            (kind, name): results.median("operations", kind, name, measure)
            for kind in (STOCK, OURS, NAIVE, BARE)
            for name in databases
        }
        row = [measure]
        if "sqlite" in databases:
            row.append(ratio(medians[OURS, "sqlite"], medians[STOCK, "sqlite"]))
        for name in databases:
            row.append(ratio(medians[OURS, name], medians[BARE, name]))
            row.append(ratio(medians[OURS, name], medians[NAIVE, name]))
        rows.append(row)
    header = ["ours to"]
    header += ["stock SQLite"] if "sqlite" in databases else []
    header += [f"{kind} {TITLES[name]}" for name in databases for kind in (BARE, NAIVE)]
    yield Table("Ours beside each peer", header, rows, "Ratios of the medians; below 1 is faster.")


def _growth(results: Results) -> Iterable[Table]:
    measured = {key.rows for key in results.samples if key.suite == "growth"}
    sizes = [rows for rows in GROWTH if rows in measured]
    remark = (
        "Namespaces of 100 sessions, of which one is listed; the stock manager "
        f"knows no namespaces, and lists all. {_count(results, 'growth')} samples of each."
    )
    for name in (database for database in TITLES):
        kinds = [kind for kind, database in _columns(results, "growth") if database == name]
        rows = []
        for measure in _measures(results, "growth"):
            for kind in kinds:
                medians = [
                    results.median("growth", kind, name, measure, rows=size) for size in sizes
                ]
                growth = ratio(medians[-1], medians[0])
                rows.append([f"{measure}, {kind}", *map(microseconds, medians), growth])
        if rows:
            header = ["median", *(f"{size:,} rows" for size in sizes), "last to first"]
            yield Table(f"Growth with the table: {TITLES[name]}", header, rows, remark)


def _stall(results: Results) -> Table:
    rows = []
    measures = [name for name in _measures(results, "stall") if "answers" not in name]
    columns = _columns(results, "stall")
    for measure in measures:
        rows.append(
            [measure]
            + [microseconds(max(results.get("stall", *c, measure), default=None)) for c in columns]
        )
    for measure in measures:
        prefix = f"{measure}: answers "
        rows.append([prefix.strip(), *(_answers(results, "stall", c, prefix) for c in columns)])
    header = ["longest", *(f"{kind} {TITLES[name]}" for kind, name in columns)]
    remark = (
        "The longest gap between two sleeps of a millisecond inside the server, while another "
        "process holds the lock of the database and a client polls; and how many requests were "
        f"answered with which status. {len(results.get('stall', *columns[0], measures[0]))} rounds."
    )
    return Table("Stall of the event loop", header, rows, remark)


def _outage(results: Results) -> Table:
    columns = _columns(results, "outage")
    rows = [
        [title, *(microseconds(results.median("outage", *column, measure)) for column in columns)]
        for measure, title in outage.MEASURES.items()
    ]
    rows.append(["answers", *(_answers(results, "outage", c, "answers ") for c in columns)])
    seconds = max(results.get("outage", STOCK, "sqlite", "seconds"))
    remark = (
        "The gaps between two sleeps of a millisecond inside the server, while its database is "
        f"away and a client polls sessions and kernels every {outage.PAUSE:g} s, {seconds:g} s "
        "long, all servers at once. The stock server's database is there."
    )
    header = ["", *(f"{kind} {TITLES[name]}" for kind, name in columns)]
    return Table("The event loop in an outage", header, rows, remark)


def _answers(results: Results, suite: str, column: tuple[str, str], prefix: str) -> str:
    found = [
        f"{sum(samples):.0f} x {key.measure.removeprefix(prefix)}"
        for key, samples in results.samples.items()
        if (key.suite, key.kind, key.database) == (suite, *column)
        and key.measure.startswith(prefix)
    ]
    return ", ".join(found)


def _with_ratio_to_stock(results: Results, suite: str, title: str, remark: str) -> Table:
    table = _medians(results, suite, title, remark)
    ours = [name for kind, name in _columns(results, suite) if kind == OURS]
    rows = [
        row
        + [
            ratio(
                results.median(suite, OURS, name, row[0]),
                results.median(suite, STOCK, "sqlite", row[0]),
            )
            for name in ours
        ]
        for row in table.rows
    ]
    header = table.header + [f"{TITLES[name]} to stock" for name in ours]
    return Table(title, header, rows, remark)


def _prune(results: Results) -> Table:
    rows = []
    for name, title in TITLES.items():
        for measure in ("write, alone", "write, beside the prune"):
            samples = results.get("prune", OURS, name, measure)
            if samples:
                shares = [
                    results.percentile("prune", OURS, name, measure, share)
                    for share in (0.5, 0.99, 1.0)
                ]
                row = [f"{measure}, {title}", *map(microseconds, shares), f"{len(samples):,}"]
                rows.append(row)
        for sample in results.get("prune", OURS, name, "the prune"):
            rows.append([f"the prune, {title}", microseconds(sample), "", "", "1"])
    remark = (
        "`prune` removes all sessions of the table, as a process of its own, while another "
        "connection writes to random ones of them, and waits for whatever is locked."
    )
    header = ["", "50 %", "99 %", "100 %", "samples"]
    return Table("Writes beside a prune", header, rows, remark)


def _transfer(results: Results) -> Table:
    found = [key for key in results.samples if key.suite == "transfer" and key.kind == OURS]
    rows = []
    for key in found:
        ours, plain = (
            results.median("transfer", kind, key.database, key.measure, rows=key.rows)
            for kind in (OURS, BARE)
        )
        figures = (microseconds(ours), microseconds(plain), ratio(plain, ours))
        rows.append([f"{key.measure}, {TITLES[key.database]}", f"{key.rows:,}", *figures])
    remark = (
        "Beside a loop that reads the same rows with the bare driver, and adds a thousand at a "
        f"time with `executemany`. {_count(results, 'transfer')} of each, in turn."
    )
    header = ["median", "sessions", OURS, "plain", "times as fast"]
    return Table("Copy and import", header, rows, remark)


def _replicas(results: Results) -> Iterable[Table]:
    ours = ("replicas", OURS, "postgresql")

    def one(measure: str) -> float:
        return max(results.get(*ours, measure), default=0.0)

    yield Table(
        f"{one('servers'):,.0f} servers on one PostgreSQL, through PgBouncer",
        ["", "50 %", "95 %", "99 %", "100 %", "samples"],
        [
            [
                measure,
                *(
                    microseconds(results.percentile(*ours, measure, share))
                    for share in (0.5, 0.95, 0.99, 1.0)
                ),
                f"{len(results.get(*ours, measure)):,}",
            ]
            for measure in ("list", "renewal", "list: asked for late by")
            if results.get(*ours, measure)
        ],
        "Each a repository of its own with its thread, its heartbeat and its connection to "
        f"PgBouncer, which pools transactions over at most {CONNECTIONS} connections. Each lists "
        f"the {ROWS} sessions of its namespace, which ten servers share, every 10 s (one "
        "statement), and renews its lease of 90 s every 30 s (two). The simulated servers have "
        "but a few processes: how late their event loops were to ask is not the database's.",
    )
    cores = psutil.cpu_count() or 1
    rows = [
        ["statements a second, as PgBouncer counts them", f"{one('statements a second'):.0f}", ""],
        ["connections to PostgreSQL at most", f"{one('connections'):.0f}", ""],
    ]
    for measure in _measures(results, "replicas"):
        used = one(measure)
        if measure.startswith("error"):
            rows.append([measure, f"{used:.0f}", ""])
        elif measure.startswith("processor: "):
            rows.append([measure, f"{used:.1%}", f"{used / cores:.1%}"])
    remark = (
        "Of the processor time: what is left to the database is what it did not use and nobody "
        f"else did, of the {cores} cores that all here share."
    )
    yield Table(
        "The database behind them", ["", "amount, or of a core", "of all cores"], rows, remark
    )


def _memory(results: Results) -> Table:
    columns = _columns(results, "memory")
    ours = [name for kind, name in columns if kind == OURS]
    rows = []
    for start in (memory.FIRST, memory.LATER):
        for measure in memory.MEASURES:
            title = f"{start}: {measure}"
            medians = {
                column: results.median("memory", *column, title)
                for column in (*columns, (STOCK, "sqlite"))
            }
            stock = medians[STOCK, "sqlite"]
            row = [title, *(_shown(measure, medians[column]) for column in columns)]
            row += (_over(measure, medians[OURS, name], stock) for name in ours)
            rows.append(row)
    header = ["median", *(f"{kind} {TITLES[name]}" for kind, name in columns)]
    header += [f"{TITLES[name]} over stock" for name in ours]
    remark = (
        "Of a `jupyter server` after its first `GET /api/sessions`, with the bytecode compiled and "
        "no extension but those that jupyter_server itself requires. Private is what no other "
        "process shares. A first start finds an empty database, and makes the tables. "
        f"{_count(results, 'memory')} starts of each."
    )
    return Table("Memory, threads and processor time of a start", header, rows, remark)


def _over(measure: str, value: float | None, stock: float | None) -> str:
    if measure == "processor":
        return f"{ratio(value, stock)} times"
    return _shown(measure, None if value is None or stock is None else value - stock)


def _shown(measure: str, value: float | None) -> str:
    return "-" if value is None else _UNITS[measure].format(value)


_UNITS: Final = {
    "private": "{:.1f} MiB",
    "resident": "{:.1f} MiB",
    "threads": "{:.0f}",
    "processor": "{:.2f} s",
}


def _idle(results: Results) -> Table:
    names = [name for _, name in _columns(results, "idle")]
    rows = []
    for mode in idle.MODES:
        for measure in idle.MEASURES:
            found = [results.median("idle", OURS, name, f"{mode}: {measure}") for name in names]
            shown = ["-" if one is None else f"{one:.3f}" for one in found]
            rows.append([f"{mode}: {measure}", *shown])
    servers, minutes = (
        max(results.get("idle", OURS, name, measure)[0] for name in names)
        for measure in ("servers", "minutes")
    )
    remark = (
        f"{servers:.0f} servers that nobody uses, each in a namespace of its own: a repository and "
        "its heartbeat as a session manager opens them, all in one process, behind a proxy that "
        f"counts. {minutes:g} minutes of each mode. The processor time is that of all processes of "
        "the database server, which has work of its own: see the mode without anybody, whose time "
        "is divided by as many servers. The bare driver sends the same statements over as many "
        "connections."
    )
    header = ["a server and minute", *(TITLES[name] for name in names)]
    return Table("Idle servers", header, rows, remark)


def _outliving(results: Results) -> Table:
    def median(title: str) -> float | None:
        return results.median("outliving", OURS, "sqlite", title)

    rows = []
    for measure in outliving.MEASURES:
        stock, ours = (
            median(f"{name}: {measure}") for name in (outliving.STOCK_KERNELS, outliving.OUTLIVING)
        )
        rows.append([measure, *(_in(one, "{:.2f} ms") for one in (stock, ours))])
    found = (median(outliving.NONE_FOUND), median(outliving.ALL_FOUND))
    rows.append(["start of the server", *(_in(one, "{:.2f} s") for one in found)])
    remark = (
        "At the REST API, with SQLite and ipykernel, two servers by turns. The start is up to the "
        f"first list of sessions; at the right, with {outliving.FOUND} sessions on as many kernels "
        "that are found again, all of which are in that list."
    )
    header = ["median", outliving.STOCK_KERNELS, outliving.OUTLIVING]
    return Table("Kernels that outlive their server", header, rows, remark)


def _in(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _targets(results: Results) -> Table:
    rows = []
    for target in TARGETS:
        value = target.measure(results)
        if value is None:
            continue
        met = target.met(value)
        gap = f" by {abs(value / target.limit - 1):.0%}" if target.limit and not met else ""
        bound = f"{'at least' if target.at_least else 'at most'} {target.limit:g}{target.unit}"
        rows.append(
            [target.text, bound, f"{value:.2f}{target.unit}", "met" if met else "missed" + gap]
        )
    return Table("Targets", ["what", "target", "measured", ""], rows)


def tables(results: Results) -> list[Table]:
    """Return the tables of whatever was measured."""
    suites = {key.suite for key in results.samples}
    found: list[Table] = []
    if "operations" in suites:
        found += _operations(results)
    if "growth" in suites:
        found += _growth(results)
    if "rest" in suites:
        found.append(
            _with_ratio_to_stock(
                results,
                "rest",
                "Latency at the REST API",
                "One kept-alive connection to a server of its own; ten sessions, but for the "
                f"longer lists. {_count(results, 'rest')} samples of each.",
            )
        )
    if "startup" in suites:
        found.append(
            _with_ratio_to_stock(
                results,
                "startup",
                "Start-up of the server",
                "From the start of the process to the first answered `GET /api/status`, with the "
                "schema at head, the bytecode compiled, and no extension but those that "
                f"jupyter_server itself requires. {_count(results, 'startup')} starts of each.",
            )
        )
    if "memory" in suites:
        found.append(_memory(results))
    if "outliving" in suites:
        found.append(_outliving(results))
    if "stall" in suites:
        found.append(_stall(results))
    if "outage" in suites:
        found.append(_outage(results))
    if "prune" in suites:
        found.append(_prune(results))
    if "transfer" in suites:
        found.append(_transfer(results))
    if "replicas" in suites:
        found += _replicas(results)
    if "idle" in suites:
        found.append(_idle(results))
    targets = _targets(results)
    return [*found, targets] if targets.rows else found


def markdown(results: Results, machine: dict[str, Any], picture: str | None) -> str:
    """Return the whole report in Markdown."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    parts = ["\n".join(lines)]
    if picture:
        parts.append(f"![How each operation grows with the table]({picture})")
    return "\n\n".join(parts + [table.markdown() for table in tables(results)]) + "\n"
