"""What every test may use, besides the databases of tests/databases and tests/leaving_out.py."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# It builds a parser of IRIs when it is imported, which takes as long as all else that a process
# of the tests imports; it is optional, and checks nothing here.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# pytest_jupyter runs `async def` tests, each on a loop of its own.
pytest_plugins = [
    "pytest_jupyter.jupyter_server",
    "pytester",
    "tests.databases.plugin",
    "tests.interrupts",
    "tests.leaving_out",
    "tests.remembering",
]


def pytest_configure() -> None:
    # Each has the time-outs in what it sends from its import on: that one comes while a test has
    # changed them would change them for all tests of the process.
    for name in ("mysql", "postgresql", "sqlite"):
        importlib.import_module(f"jupyter_session_store.sql.engine.{name}")


_SEED = "JSS_TEST_SEED"


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test run see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def jp_nbconvert_templates() -> None:
    """Have no server of a test begin with a copy of the templates: nothing here converts."""


@pytest.fixture(autouse=True)
def jp_server_cleanup(jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """End the server of a test that has made one.

    As pytest_jupyter's fixture of this name, which makes one for each test to end it.
    """
    # Not before what is taken away above.
    from jupyter_server.serverapp import ServerApp

    yield
    if not ServerApp.initialized():
        return
    app: Any = ServerApp.instance()
    try:
        jp_asyncio_loop.run_until_complete(app._cleanup())
    except (RuntimeError, SystemExit) as error:
        print(f"The server's end failed: {error}")
    if hasattr(app, "kernel_manager"):
        app.kernel_manager.context.destroy()
    ServerApp.clear_instance()


@pytest.fixture
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs of pytest within a test load what they name: the other plugins take seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist.plugin")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of a test with random input; a failure says how to use it again."""
    text = os.environ.get(_SEED)
    seed = int(text) if text else random.SystemRandom().randrange(2**32)
    request.node.stash[_SEED_KEY] = seed
    return seed


_SEED_KEY = pytest.StashKey[int]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    seed = item.stash.get(_SEED_KEY, None)
    if seed is not None and report.failed:
        report.sections.append(("seed", f"{_SEED}={seed} repeats this"))
    return report


#: What a test prints of what it has counted, besides what the servers say.
_COUNTS = re.compile(r"^(?:\d+ (?:rounds|moves|steps|requests|sessions|inputs)\b|ended, by phase)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the tests that repeat something have counted."""
    lines = [
        f"{report.nodeid}\n  {line}"
        for report in terminalreporter.stats.get("passed", [])
        for line in report.capstdout.splitlines()
        if _COUNTS.match(line)
    ]
    if lines:
        terminalreporter.section("counts")
        for line in lines:
            terminalreporter.write_line(line)
