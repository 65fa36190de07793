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

from .support import AFTER, LATER, engine_of, release, run_python, status

FIRST: Final = Revision("0001", None, "Create the tables", "expanding", 1, "every session")
HEAD: Final = versions.HEAD
#: The revisions of this release, and those of one that has two more.
OURS: Final = sorted(migrating.known_revisions())
ALL: Final = [*OURS, LATER, AFTER]


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Revision]:
    """The revisions of a release that has two more: an expanding and a contracting one."""
    migrations = release(tmp_path / "later", 1, 2)
    monkeypatch.setattr(migrating, "migrations_folder", lambda: migrations)
    return migrating.revisions()


@pytest.fixture
def later(known: list[Revision], tmp_path: Path) -> Iterator[Engine]:
    """The engine of an empty file, for the code of that release."""
    assert [one.id for one in known] == ALL
    with engine_of(f"{tmp_path}/later.db") as engine:
        yield engine


def wrong(found: list[Revision]) -> list[str]:
    """Return what is wrong with what revisions declare."""
    told = []
    floor = 1
    for revision in found:
        if revision.kind not in ("expanding", "contracting"):
            told.append(f"{revision.id}: KIND is {revision.kind!r}")
        declared = revision.oldest_compatible_code or 0
        if (declared > floor) != (revision.kind == "contracting"):
            told.append(f"{revision.id}: only a contracting revision raises the floor")
        if revision.downgrade_loses == "":
            told.append(f"{revision.id}: DOWNGRADE_LOSES is empty")
        floor = declared
    return told


def test_every_revision_declares_what_operators_go_by() -> None:
    found = migrating.revisions()
    assert wrong(found) == []
    assert [one.previous for one in found] == [None, *(one.id for one in found[:-1])]
    assert found[-1].id == versions.HEAD
    assert (found[-1].oldest_compatible_code or 0) <= versions.CODE


def test_the_first_revision_is_what_it_is() -> None:
    assert migrating.revisions()[0] == FIRST


def test_what_is_declared_wrongly_is_found(known: list[Revision]) -> None:
    assert [(one.kind, one.oldest_compatible_code) for one in known[-3:]] == [
        ("expanding", 1),
        ("expanding", 1),
        ("contracting", 2),
    ]
    assert wrong(known) == []
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
    (None, "head"): ALL,
    (None, LATER): [*OURS, LATER],
    (None, "+1"): OURS[:1],
    (None, f"+{len(ALL)}"): ALL,
    (HEAD, "head"): [LATER, AFTER],
    (HEAD, "+1"): [LATER],
    (HEAD, f"{HEAD}+2"): [LATER, AFTER],
    (LATER, LATER): [],
    (AFTER, "head"): [],
}
DOWNGRADES: Final = {
    (AFTER, "base"): ALL[::-1],
    (AFTER, HEAD): [AFTER, LATER],
    (AFTER, "-1"): [AFTER],
    (AFTER, f"-{len(ALL)}"): ALL[::-1],
    (LATER, "-1"): [LATER],
    (AFTER, f"{AFTER}-2"): [AFTER, LATER],
    (HEAD, "base"): OURS[::-1],
    (LATER, LATER): [],
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
        ("upgrade", HEAD, "0999", "'0999' is no revision of this installation"),
        ("upgrade", HEAD, "", "'' is no revision"),
        ("upgrade", HEAD, "+99", "'+99' is no revision of this installation, and leads to none"),
        ("upgrade", HEAD, "one; two", f"expected one of {', '.join(ALL)}, head, base"),
        ("upgrade", LATER, HEAD, f"lies behind the database, which is at revision {LATER}"),
        ("upgrade", LATER, "-1", "lies behind the database"),
        ("upgrade", LATER, "base", "expected a later one, or head"),
        ("upgrade", "0999", "head", "Revision '0999' is none of this installation's"),
        ("downgrade", HEAD, "junk", "'junk' is no revision"),
        ("downgrade", HEAD, "-99", "leads to none"),
        ("downgrade", HEAD, LATER, f"lies ahead of the database, which is at revision {HEAD}"),
        ("downgrade", HEAD, "head", "lies ahead of the database"),
        ("downgrade", HEAD, "+1", "expected an earlier one, or base"),
        ("downgrade", None, HEAD, "lies ahead of the database, which is at no revision"),
    ],
)
def test_a_target_that_leads_nowhere_is_refused(
    known: list[Revision], word: str, current: str | None, target: str, told: str
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
    migrating.upgrade(later, HEAD)
    with pytest.raises(ConfigurationError, match="jupyter session-store history"):
        getattr(migrating, word)(later, "0999")
    assert status(later).revision == HEAD


def test_a_script_from_one_revision_to_another(known: list[Revision]) -> None:
    up = migrating.sql_script("postgresql://db/x", HEAD, "+1")
    assert "ADD COLUMN note " in up
    assert f"SET version_num='{LATER}'" in up
    assert "second_note" not in up
    assert "CREATE TABLE" not in up
    down = migrating.sql_script("postgresql://db/x", AFTER, "-1", downgrade=True)
    assert "DROP COLUMN second_note" in down
    assert f"SET version_num='{LATER}'" in down
    assert migrating.sql_script("postgresql://db/x", AFTER, "head") == ""
    assert migrating.sql_script("postgresql://db/x", None, "base", downgrade=True) == ""


def test_a_script_for_a_url_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match="is not a database URL") as refused:
        migrating.sql_script("postgresql://jupyter:s3cr3t@db:port/x", None, "head")
    assert "s3cr3t" not in str(refused.value)
