"""The plugin's own tests: the conformance suite of the package that it plugs into."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.repository import SessionRepository, load_repository
from jupyter_session_store.testing import PersistentRepositoryContract


def make(url: str, **options: object) -> SessionRepository:
    return load_repository("jsonfile")(
        url, options=options, auto_upgrade="safe", log=logging.getLogger(__name__)
    )


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep everybody else from the file."""
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class TestJSONFile(PersistentRepositoryContract):
    @pytest.fixture
    def make_repository(self, tmp_path: Path) -> Callable[[], SessionRepository]:
        return lambda: make(f"jsonfile://{tmp_path}/sessions.json")

    @pytest.fixture
    def unreachable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[], AbstractContextManager[None]]:
        # The verbs wait for the lock one after another.
        monkeypatch.setattr("jss_jsonfile.LOCK_TIMEOUT", 0.2)
        return lambda: locked(tmp_path / "sessions.json")


def test_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        make(f"jsonfile://{tmp_path}/sessions.json", pool_size=1)
