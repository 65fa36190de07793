"""Each subcommand is a module of its own name, and a run imports no other."""

from __future__ import annotations

from importlib import import_module

import pytest

from jupyter_session_store.cli.app import SessionStoreApp

from .conftest import Run

_PACKAGE = "jupyter_session_store.cli"


def module_of(name: str) -> str:
    """Return the module that a subcommand should be in: `import` is no name in Python."""
    return f"{_PACKAGE}.{name}{'_' if name == 'import' else ''}"


@pytest.mark.parametrize("name", SessionStoreApp.subcommands)
def test_the_module_of_a_subcommand(name: str) -> None:
    place, _help = SessionStoreApp.subcommands[name]
    assert place == f"{module_of(name)}.{name.capitalize()}"
    command = getattr(import_module(module_of(name)), name.capitalize())
    assert command.__module__ == module_of(name)
    assert command.name == f"jupyter-session-store {name}"


@pytest.mark.parametrize("name", SessionStoreApp.subcommands)
def test_a_run_imports_no_other_subcommand(run: Run, name: str) -> None:
    done = run(name, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported & set(map(module_of, SessionStoreApp.subcommands)) == {module_of(name)}
