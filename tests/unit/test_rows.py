"""Fields and columns are matched by name, and one function says when two paths are the same."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from jupyter_session_store import authorities, paths, records
from jupyter_session_store.paths import claim_of, path_digest
from jupyter_session_store.records import Scope
from jupyter_session_store.sessions import local_records
from jupyter_session_store.sessions.local_records import LocalRecords
from jupyter_session_store.sql.engine.backend import Backend, backend_of
from jupyter_session_store.testing import AWKWARD
from jupyter_session_store.testing import record as known_record
from tests.programs import run_to_end
from tests.unit.dummies import DummyKernelManager, make_manager

#: A later release: a record with one more field, which comes last.
WIDER_RECORD = """
from collections import namedtuple
from jupyter_session_store import records
from tests.unit.dummies import DummyKernelManager, make_manager
from jupyter_session_store.testing import record
usual = record("a")
wider = namedtuple("SessionRecord", (*usual._fields, "language"))
records.SessionRecord = wider
"""
WIDER_TABLE = """
from sqlalchemy import Column
from jupyter_session_store.sql import tables
tables.SESSIONS.append_column(Column("language", tables.ExactText(255)))
"""
ROUND_TRIPS = """
from sqlalchemy import create_engine, insert, make_url, select
from jupyter_session_store.sql.admin import bulk_insert, copying
from jupyter_session_store.sql.queries import rows
engine = create_engine("sqlite://")
tables.METADATA.create_all(engine)
stored = wider(*usual, language="python")
with engine.connect() as connection:
    connection.execute(insert(tables.SESSIONS), rows.to_row(stored))
    assert rows.to_record(connection.execute(select(*rows.COLUMNS)).one()) == stored
    scoped = connection.execute(select(*rows.SCOPED_COLUMNS)).all()
    assert rows.to_records(usual.scope, scoped) == [stored]
    row = tuple(connection.execute(select(*bulk_insert.COLUMNS)).one())
    postgresql = make_url("postgresql+psycopg://").get_dialect()()
    converted, = copying._converter(engine.dialect, postgresql, None)([row])
    values = dict(zip(bulk_insert.NAMES, converted))
    assert values["language"] == "python"
    assert values["created_at"] == usual.created_at
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_new_column_is_read_by_its_name() -> None:
    done = run(WIDER_RECORD + WIDER_TABLE + ROUND_TRIPS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", [WIDER_RECORD, WIDER_TABLE], ids=["no column", "no field"])
def test_a_record_and_a_table_that_differ_are_refused_at_import(change: str) -> None:
    done = run(f"{change}\nimport jupyter_session_store.sql.queries.rows")
    assert done.returncode != 0
    assert "SessionRecord and the table jupyter_sessions differ in: language" in done.stderr


def test_whatever_makes_a_record_gives_each_field() -> None:
    """A new field has a default, so that what was written before can be read; nothing else asks."""
    fields = set(records.SessionRecord._fields) - {"version"}
    package = Path(records.__file__).parent
    given = {
        f"{path.relative_to(package)}:{node.lineno}": {one.arg for one in node.keywords}
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "SessionRecord"
    }
    assert any(place.startswith("sessions/context.py:") for place in given)
    # Its keyword is None where a record is made of a whole mapping.
    missing = {place: fields - names for place, names in given.items() if None not in names}
    assert {place: names for place, names in missing.items() if names} == {}


def test_paths_are_the_same_if_every_code_point_is() -> None:
    assert len({path_digest(path) for path in AWKWARD}) == len(AWKWARD)
    scope = Scope("bob", "gateway:g")
    assert len({claim_of(scope, path) for path in AWKWARD}) == len(AWKWARD)
    assert path_digest(None) is claim_of(scope, None) is None


def test_stored_digests_and_claims_stay_valid() -> None:
    """Another rule, or another digest, needs a revision that makes all stored ones anew."""
    path = "./A \u00e9//e\u0301.IPYNB "
    found = (path_digest(path), claim_of(Scope("bob", "gateway:g"), path))
    assert found == (
        "0fd91de1f8c5b1d7c8d835850f9c49ab816c05fb5fae69873bcfd2f10a3686c2",
        "6db2a2f1f6a687b42220f6f200917f3ece8aefa59bbe463daec43f8dde2a015e",
    )


def test_what_stood_in_records_is_still_imported_from_there() -> None:
    for module, names in (
        (paths, ("claim_of", "digest", "path_digest", "path_key")),
        (authorities, ("authority_kind", "authority_of", "server_of")),
        (authorities, ("GATEWAY_AUTHORITY", "SERVER_AUTHORITY")),
    ):
        assert all(getattr(records, name) is getattr(module, name) for name in names)


def test_one_function_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "path_key", str.casefold)
    scope = Scope("bob", "gateway:g")
    assert path_digest("A.ipynb") == path_digest("a.ipynb")
    assert claim_of(scope, "A.ipynb") == claim_of(scope, "a.ipynb")


async def test_requests_for_equal_paths_share_one_create(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "path_key", str.casefold)
    kernels = DummyKernelManager()
    manager = make_manager(":memory:", kernels)
    models = await asyncio.gather(
        *(manager.get_or_create_session(path, "", "notebook") for path in ("A.ipynb", "a.ipynb"))
    )
    assert models[0]["id"] == models[1]["id"]
    assert len(kernels.started) == 1
    manager.close()


@pytest.mark.parametrize(
    ("url", "title"),
    [
        ("sqlite:///x.db", "SQLite"),
        ("postgresql+psycopg://db/x", "PostgreSQL"),
        ("mysql+pymysql://db/x", "MySQL"),
        ("mariadb+pymysql://db/x", "MariaDB"),
        ("cockroachdb+psycopg://db/x", "cockroachdb"),
    ],
)
def test_each_dialect_has_one_object(url: str, title: str) -> None:
    backend = backend_of(make_url(url))
    assert backend is backend_of(make_url(url))
    assert backend.title == title
    assert (type(backend) is Backend) is (title == "cockroachdb")
    # A dialect of another package has the driver's settings all the same.
    assert ("prepare_threshold" in backend.driver.connect_args) is ("psycopg" in url)


def test_a_column_may_have_another_name_in_the_database() -> None:
    """What reads and writes rows goes by the names of the code."""
    verbs = "comes_out or mirror or change or update"
    suite = Path(__file__).with_name("other_names.py")
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-k", verbs]
    done = run_to_end(
        [sys.executable, "-m", "pytest", *options, suite], timeout=100, cwd=suite.parents[2]
    )
    assert done.returncode == 0, done.stdout


def test_a_local_session_is_found_by_its_path_and_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_records, "path_key", str.casefold)
    known = LocalRecords()
    stored = known_record("one", path="A.ipynb")
    known.add(stored)
    assert known.find({"path": "a.ipynb"}) == [stored]
    assert known.find({"session_id": "one", "path": "a.ipynb"}) == [stored]
    assert known.find({"path": "a.ipynb", "session_id": "two"}) == []
    assert known.find({"path": "b.ipynb", "session_id": "one"}) == []
