"""``python -m benchmarks``: run the suites, print the tables, write JSON and a picture."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from .databases import DATABASES, Databases
from .http_suites import run_rest, run_stall, run_startup
from .idle import run_idle
from .machine import describe, file_system
from .memory import run_memory
from .operations import run_growth, run_operations
from .outage import MINUTES as OUTAGE
from .outage import run_outage
from .outliving import run_outliving
from .peers import peers
from .plot import draw
from .pruning import run_prune
from .replicas import run_replicas
from .report import markdown, tables
from .results import Results
from .transfer import run_transfer

SUITES: Final = (
    "operations",
    "growth",
    "rest",
    "startup",
    "memory",
    "outliving",
    "stall",
    "outage",
    "prune",
    "transfer",
    "replicas",
    "idle",
)
RESULTS: Final = Path(__file__).resolve().parent / "results"


def _parser() -> argparse.ArgumentParser:
    def names(known: tuple[str, ...]) -> object:
        def parse(text: str) -> tuple[str, ...]:
            given = tuple(text.split(","))
            if unknown := set(given) - set(known):
                raise argparse.ArgumentTypeError(
                    f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}"
                )
            return tuple(name for name in known if name in given)

        return parse

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare the stock session manager, ours, a naive SQLAlchemy port and the "
        "bare driver, in one run. Nothing is asserted.",
        epilog="Servers: JSS_TEST_POSTGRESQL_URL and JSS_TEST_MYSQL_URL, else temporary ones. "
        "A temporary one does not sync its commits to the disk; figures of writes for "
        "publication want a server of the first kind.",
    )
    parser.add_argument(
        "--only",
        type=names(SUITES),  # type: ignore[arg-type]
        default=SUITES,
        metavar="SUITE,...",
        help=f"suites, of {', '.join(SUITES)} (default: all)",
    )
    parser.add_argument(
        "--databases",
        type=names(DATABASES),  # type: ignore[arg-type]
        default=DATABASES,
        metavar="NAME,...",
        help=f"databases, of {', '.join(DATABASES)} (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="few samples: to try the tool")
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="how long idle servers are watched, in each of four modes, and how long an outage "
        f"lasts, but that {OUTAGE:g} at most (default: 10)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="default: benchmarks/results/<time>.json"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PATH",
        help="the growth, SVG or PNG (default: beside the JSON, as SVG)",
    )
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="the tables for the docs")
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="PATH",
        help="where the SQLite files and the servers' files go: on a disk, not in memory "
        "(default: the system's directory for temporary files, unless it is in memory)",
    )
    return parser


def _directory(given: Path | None) -> Path:
    """Return a parent for temporary files that is on a disk, if one can be found."""
    if given is not None:
        return given
    usual = Path(tempfile.gettempdir())
    if file_system(usual) not in ("tmpfs", "ramfs"):
        return usual
    RESULTS.mkdir(exist_ok=True)
    return RESULTS


def main() -> None:
    """Run."""
    options = _parser().parse_args()
    results = Results()
    # Whoever ends the run ends the servers that it started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended by SIGTERM."))
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="jss-bench-", dir=_directory(options.directory))
            )
        )
        databases = stack.enter_context(Databases(options.databases, directory))
        machine = describe(directory, databases.products)
        machine["load when the run began"] = f"{os.getloadavg()[0]:.2f}"
        # A suite that fails does not take with it what the ones before it measured.
        stack.callback(_report, options, results, machine)
        who = peers(options.databases)
        if "operations" in options.only:
            asyncio.run(run_operations(who, databases, results, quick=options.quick))
        if "growth" in options.only:
            asyncio.run(run_growth(who, databases, results, quick=options.quick))
        for name, run in (
            ("rest", run_rest),
            ("startup", run_startup),
            ("memory", run_memory),
            ("outliving", run_outliving),
            ("stall", run_stall),
        ):
            if name in options.only:
                run(who, databases, directory, results, quick=options.quick)
        if "outage" in options.only:
            minutes = min(options.minutes, OUTAGE)
            run_outage(who, databases, directory, results, quick=options.quick, minutes=minutes)
        if "prune" in options.only:
            run_prune(databases, results, quick=options.quick)
        if "transfer" in options.only:
            run_transfer(databases, results, quick=options.quick)
        if "replicas" in options.only:
            run_replicas(databases, results, quick=options.quick)
        if "idle" in options.only:
            run_idle(databases, results, quick=options.quick, minutes=options.minutes)


def _report(options: argparse.Namespace, results: Results, machine: dict[str, str]) -> None:
    machine["load when it ended"] = f"{os.getloadavg()[0]:.2f}"
    for name, value in machine.items():
        print(f"{name}: {value}")
    for table in tables(results):
        print(f"\n{table.text()}")
    if results.samples:
        _write(options, results, machine)


def _write(options: argparse.Namespace, results: Results, machine: dict[str, str]) -> None:
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%S")
    path = options.json or RESULTS / f"{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "results": results.as_json()}, indent=1))
    print(f"\n{path}", file=sys.stderr)
    picture = None
    if any(key.suite == "growth" for key in results.samples):
        picture = options.plot or path.with_suffix(".svg")
        try:
            draw(results, picture)
            print(picture, file=sys.stderr)
        except ImportError:
            picture = None
            print("No picture: pip install 'jupyter_session_store[bench]'", file=sys.stderr)
    if options.markdown:
        where = os.path.relpath(picture, options.markdown.parent) if picture else None
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(markdown(results, machine, where))
        print(options.markdown, file=sys.stderr)


if __name__ == "__main__":
    main()
