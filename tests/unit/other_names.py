"""The conformance suite on a later release, whose database calls a column by another name.

No test module: :mod:`.test_rows` runs it in a process of its own, for the tables change as they are
imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import pytest

_USUAL = 'Column(\n        "kernel_model",'
_OTHER = 'Column(\n        "last_model", key="kernel_model", type_='

_spec = find_spec("jupyter_session_store.sql.tables")
assert _spec is not None
_source = _spec.loader.get_source(_spec.name)  # type: ignore[union-attr]
assert _source.count(_USUAL) == 1
sys.modules[_spec.name] = _tables = module_from_spec(_spec)
exec(_source.replace(_USUAL, _OTHER), vars(_tables))

from jupyter_session_store.repository import SessionRepository  # noqa: E402
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository  # noqa: E402
from jupyter_session_store.testing import RepositoryContract  # noqa: E402
from tests.unit.test_contract import SETTINGS  # noqa: E402


class TestOtherNames(RepositoryContract):
    @pytest.fixture
    def make_repository(self, tmp_path: Path) -> Callable[[], SessionRepository]:
        return lambda: SQLAlchemySessionRepository(str(tmp_path / "sessions.db"), **SETTINGS)
