"""The command, in surroundings that belong to one test."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

import pytest

from .support import session_store
from .timing import hurry


class Run(Protocol):
    """Runs ``jupyter session-store`` to its end: see :func:`.support.session_store`."""

    def __call__(
        self, *words: str, url: str | None = None, answer: str = "", **variables: str
    ) -> CompletedProcess[str]: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of the operator: no configuration is found but what a test writes there."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def run(home: Path) -> Run:
    """A function that runs the command: ``run("list", "--json", url=database.url)``."""
    return partial(session_store, home=home)


@pytest.fixture
def hurried(home: Path) -> None:
    """Leases run out at once: for a test in which no process renews one."""
    hurry(home)
