"""The reference has all that there is, and the pages name nothing that is not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Final

import pytest
from command_samples import PAGE, written
from generated_reference import commands, expand, is_generated, settings

from jupyter_session_store import errors
from jupyter_session_store.cli.command import StoreCommand
from jupyter_session_store.cli.help import options_of
from jupyter_session_store.repository import SessionRepository
from jupyter_session_store.sql.schema import versions
from jupyter_session_store.sql.tables import METADATA

from .blocks import ROOT, pages, source

_TYPED: Final = re.compile(r"jupyter session-store ([a-z]+)((?: --[\w-]+)*)")
_VARIABLE: Final = re.compile(r"\b(?:JUPYTER_SESSION_STORE|JSS_TEST)_[A-Z_]*[A-Z]\b")


@pytest.mark.parametrize("page", [page for page in pages() if is_generated(source(page))])
def test_what_is_generated(page: str) -> None:
    assert not is_generated(expand(source(page)))


def test_what_the_page_shows_of_each_subcommand() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run: make reference"


def test_every_setting_is_there() -> None:
    page = source("docs/reference/settings.md")
    assert [name for name in settings() if f"<!-- generated: setting {name} -->" not in page] == []


def test_every_error_is_there() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    names = [kind.__name__ for kind in kinds if kind is not errors.SessionStoreError]
    page = source("docs/reference/errors.md")
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_every_variable_is_there() -> None:
    page = source("docs/reference/environment.md")
    files = [
        path
        for folder in ("jupyter_session_store", "migrations", "tests", "tools")
        for path in (ROOT / folder).rglob("*.py")
    ]
    found = {name for path in files for name in _VARIABLE.findall(path.read_text())}
    assert sorted(name for name in found if f"`{name}`" not in page) == []
    assert sorted(name for name in _VARIABLE.findall(page) if name not in found) == []


def test_what_the_database_says_of_itself_is_there() -> None:
    page = source("docs/reference/tables.md")
    for name in (versions.OLDEST_COMPATIBLE_CODE, versions.STOCK_ADOPTED):
        assert f"| `{name}` |" in page


def test_the_diagram_of_the_tables() -> None:
    diagram = (ROOT / "docs" / "_static" / "tables.svg").read_text()
    for table in METADATA.sorted_tables:
        for name in (table.name, *table.columns.keys()):
            assert f">{name}</text>" in diagram, name


def test_every_verb_is_in_the_guide_for_plugins() -> None:
    page = source("docs/how-to/plugin.md")
    verbs = SessionRepository.__abstractmethods__ - {"__init__"}
    assert sorted(verb for verb in verbs if f"`{verb}`" not in page) == []


@pytest.mark.parametrize("page", pages())
def test_what_pages_say_of_commands(page: str) -> None:
    known = commands()
    for name, options in _TYPED.findall(" ".join(source(page).split())):
        assert name in known, name
        words = {one for option in options_of(known[name]) for one in option.split(", ")}
        of_command = {word.partition("=")[0] for word in words} | {"--help"}
        assert set(options.split()) <= of_command, (name, options)


def examples() -> Iterator[tuple[str, str]]:
    for name, command in commands().items():
        for line in re.sub(r"\\\n\s*", "", str(command.examples)).strip().splitlines():
            yield name, re.split(r"\s[#|>]", line)[0].strip()


@pytest.mark.parametrize(("name", "example"), list(examples()))
def test_the_examples_of_help(name: str, example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(example)
    assert words[:3] == ["jupyter", "session-store", name]
    app: StoreCommand = commands()[name]()
    app.parse_command_line(words[3:])
    required = len(app.arguments) - app.optional_arguments
    unlimited = any(name.endswith("...") for name in app.arguments)
    most = len(app.extra_args) if unlimited else len(app.arguments)
    assert required <= len(app.extra_args) <= most, app.extra_args
