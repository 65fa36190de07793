"""The plugin's own tests: the conformance suite of the package that it plugs into.

They run where the plugin is installed, outside this checkout, and not with the tests around it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.repository import SessionRepository, load_repository
from jupyter_session_store.testing import PersistentRepositoryContract


def make(url: str, **options: object) -> SessionRepository:
    return load_repository("jsonfile")(
        url, options=options, auto_upgrade="safe", log=logging.getLogger(__name__)
    )


class TestJSONFile(PersistentRepositoryContract):
    @pytest.fixture
    def make_repository(self, tmp_path: Path) -> Callable[[], SessionRepository]:
        return lambda: make(f"jsonfile://{tmp_path}/sessions.json")


def test_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        make(f"jsonfile://{tmp_path}/sessions.json", pool_size=1)
