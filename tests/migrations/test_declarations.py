"""What each revision declares of itself, and what is planned from that."""

from __future__ import annotations

import ast
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine

from jupyter_session_store.errors import ConfigurationError
from jupyter_session_store.sql.schema import migrating, versions
from jupyter_session_store.sql.schema.migrating import Revision

from .support import engine_of, release, run_python, status

FIRST: Final = Revision("0001", None, "Create the tables", "expanding", 1, "every session")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Revision]:
    """The revisions of a release that has two more: an expanding and a contracting one."""
    migrations = release(tmp_path / "later", 1, 2)
    monkeypatch.setattr(migrating, "migrations_folder", lambda: migrations)
    return migrating.revisions()


@pytest.fixture
def later(three: list[Revision], tmp_path: Path) -> Iterator[Engine]:
    """The engine of an empty file, for the code of that release."""
    assert [one.id for one in three] == ["0001", "0002", "0003"]
    with engine_of(f"{tmp_path}/later.db") as engine:
        yield engine


def wrong(found: list[Revision]) -> list[str]:
    """Return what is wrong with what revisions declare."""
    told = []
    floor = 1
    for revision in found:
        if revision.kind not in ("expanding", "contracting"):
            told.append(f"{revision.id}: KIND is {revision.kind!r}")
        if (revision.oldest_compatible_code > floor) != (revision.kind == "contracting"):
            told.append(f"{revision.id}: only a contracting revision raises the floor")
        if revision.downgrade_loses == "":
            told.append(f"{revision.id}: DOWNGRADE_LOSES is empty")
        floor = revision.oldest_compatible_code
    return told


def test_every_revision_declares_what_operators_go_by() -> None:
    found = migrating.revisions()
    assert wrong(found) == []
    assert [one.previous for one in found] == [None, *(one.id for one in found[:-1])]
    assert found[-1].id == versions.HEAD
    assert found[-1].oldest_compatible_code <= versions.CODE


def test_the_first_revision_is_what_it_is() -> None:
    assert migrating.revisions()[0] == FIRST


def test_what_is_declared_wrongly_is_found(three: list[Revision]) -> None:
    assert [(one.kind, one.oldest_compatible_code) for one in three] == [
        ("expanding", 1),
        ("expanding", 1),
        ("contracting", 2),
    ]
    assert wrong(three) == []
    assert wrong([FIRST, Revision("0002", "0001", "x", "expanding", 2, None)]) == [
        "0002: only a contracting revision raises the floor"
    ]
    assert wrong([FIRST, Revision("0002", "0001", "x", "contracting", 1, None)]) == [
        "0002: only a contracting revision raises the floor"
    ]


def test_a_new_revision_asks_for_what_it_has_to_declare(tmp_path: Path) -> None:
    """Of whoever makes one as docs/contributing.md says."""
    for name in ("migrations", "alembic.ini"):
        source = migrating.migrations_folder().parent / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    done = run_python(
        *("-m", "alembic", "revision", "-m", "more room"),
        home=tmp_path,
        cwd=tmp_path,
        JUPYTER_SESSION_STORE_URL=f"{tmp_path}/x.db",
    )
    assert done.returncode == 0, done.stdout
    [made] = (tmp_path / "migrations" / "versions").glob("*_more_room.py")
    text = made.read_text()
    ast.parse(text)
    for line in ('KIND = ""', 'OLDEST_COMPATIBLE_CODE = ""', 'DOWNGRADE_LOSES: str | None = ""'):
        assert f"\n{line}\n" in text


#: A revision, and a target that is ahead of it: as many revisions as lie between.
UPGRADES: Final = {
    (None, "head"): ["0001", "0002", "0003"],
    (None, "0002"): ["0001", "0002"],
    (None, "+1"): ["0001"],
    (None, "+3"): ["0001", "0002", "0003"],
    ("0001", "head"): ["0002", "0003"],
    ("0001", "+1"): ["0002"],
    ("0001", "0001+2"): ["0002", "0003"],
    ("0002", "0002"): [],
    ("0003", "head"): [],
}
DOWNGRADES: Final = {
    ("0003", "base"): ["0003", "0002", "0001"],
    ("0003", "0001"): ["0003", "0002"],
    ("0003", "-1"): ["0003"],
    ("0003", "-3"): ["0003", "0002", "0001"],
    ("0002", "-1"): ["0002"],
    ("0003", "0003-2"): ["0003", "0002"],
    ("0001", "base"): ["0001"],
    ("0002", "0002"): [],
    (None, "base"): [],
}


def ran(later: Engine, caplog: pytest.LogCaptureFixture, target: str, word: str) -> list[str]:
    """Upgrade or downgrade, and return the revisions that Alembic says it has run."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "alembic.runtime.migration"):
        getattr(migrating, word)(later, target)
    lines = [one.getMessage() for one in caplog.records if "Running" in one.getMessage()]
    # "Running upgrade 0001 -> 0002, what it does"
    steps = [line.removeprefix(f"Running {word} ").partition(",")[0] for line in lines]
    return [step.split(" -> ")[word == "upgrade"] for step in steps]


@pytest.mark.parametrize(("current", "target"), UPGRADES)
def test_an_upgrade_runs_what_was_planned(
    later: Engine, caplog: pytest.LogCaptureFixture, current: str | None, target: str
) -> None:
    if current:
        migrating.upgrade(later, current)
    plan = [one.id for one in migrating.upgrade_plan(current, target)]
    assert plan == UPGRADES[current, target]
    assert ran(later, caplog, target, "upgrade") == plan
    assert status(later).revision == (plan[-1] if plan else current)


@pytest.mark.parametrize(("current", "target"), DOWNGRADES)
def test_a_downgrade_undoes_what_was_planned(
    later: Engine, caplog: pytest.LogCaptureFixture, current: str | None, target: str
) -> None:
    if current:
        migrating.upgrade(later, current)
    plan = migrating.downgrade_plan(current, target)
    assert [one.id for one in plan] == DOWNGRADES[current, target]
    assert ran(later, caplog, target, "downgrade") == DOWNGRADES[current, target]
    assert status(later).revision == (plan[-1].previous if plan else current)


@pytest.mark.parametrize(
    ("word", "current", "target", "told"),
    [
        ("upgrade", "0001", "0009", "'0009' is no revision of this installation"),
        ("upgrade", "0001", "", "'' is no revision"),
        ("upgrade", "0001", "+9", "'+9' is no revision of this installation, and leads to none"),
        ("upgrade", "0001", "one; two", "expected one of 0001, 0002, 0003, head, base"),
        ("upgrade", "0002", "0001", "lies behind the database, which is at revision 0002"),
        ("upgrade", "0002", "-1", "lies behind the database"),
        ("upgrade", "0002", "base", "expected a later one, or head"),
        ("upgrade", "0009", "head", "Revision '0009' is none of this installation's"),
        ("downgrade", "0001", "junk", "'junk' is no revision"),
        ("downgrade", "0001", "-2", "leads to none"),
        ("downgrade", "0001", "0002", "lies ahead of the database, which is at revision 0001"),
        ("downgrade", "0001", "head", "lies ahead of the database"),
        ("downgrade", "0001", "+1", "expected an earlier one, or base"),
        ("downgrade", None, "0001", "lies ahead of the database, which is at no revision"),
    ],
)
def test_a_target_that_leads_nowhere_is_refused(
    three: list[Revision], word: str, current: str | None, target: str, told: str
) -> None:
    plan = migrating.upgrade_plan if word == "upgrade" else migrating.downgrade_plan
    with pytest.raises(ConfigurationError) as refused:
        plan(current, target)
    assert told in str(refused.value)
    assert "jupyter session-store history" in str(refused.value)
    with pytest.raises(ConfigurationError):
        migrating.sql_script(":memory:", current, target, downgrade=word == "downgrade")


@pytest.mark.parametrize("word", ["upgrade", "downgrade"])
def test_without_a_plan_an_unknown_target_changes_nothing(later: Engine, word: str) -> None:
    migrating.upgrade(later, "0001")
    with pytest.raises(ConfigurationError, match="jupyter session-store history"):
        getattr(migrating, word)(later, "0009")
    assert status(later).revision == "0001"


def test_a_script_from_one_revision_to_another(three: list[Revision]) -> None:
    up = migrating.sql_script("postgresql://db/x", "0001", "+1")
    assert "ADD COLUMN note " in up
    assert "SET version_num='0002'" in up
    assert "note3" not in up
    assert "CREATE TABLE" not in up
    down = migrating.sql_script("postgresql://db/x", "0003", "-1", downgrade=True)
    assert "DROP COLUMN note3" in down
    assert "SET version_num='0002'" in down
    assert migrating.sql_script("postgresql://db/x", "0003", "head") == ""
    assert migrating.sql_script("postgresql://db/x", None, "base", downgrade=True) == ""


def test_a_script_for_a_url_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="is not a database URL") as refused:
        migrating.sql_script("postgresql://jupyter:s3cr3t@db:port/x", None, "head")
    assert "s3cr3t" not in str(refused.value)
