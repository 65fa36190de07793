"""Each subcommand is in a module of its own name, and a run imports no other's."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from jupyter_session_store.cli.app import SessionStoreApp

#: Prints the subcommands, each with the modules that its help imports, in a process of its own.
_IMPORTS_OF_HELP = """
import os, sys
from jupyter_session_store.cli.app import SessionStoreApp, main
for name in SessionStoreApp.subcommands:
    if not os.fork():
        sys.argv[1:] = [name, "--help"]
        try:
            main()
        finally:
            sys.stderr.write(f"{' '.join([name, *sys.modules])}\\n")
            os._exit(0)
    os.wait()
"""


def module_of(name: str) -> str:
    """Return the module that a subcommand should be in: ``import`` is a keyword."""
    return f"jupyter_session_store.cli.{name}{'_' if name == 'import' else ''}"


@pytest.mark.parametrize("name", SessionStoreApp.subcommands)
def test_a_subcommand_is_in_a_module_of_its_name(name: str) -> None:
    place, _ = SessionStoreApp.subcommands[name]
    assert place == f"{module_of(name)}.{name.capitalize()}"
    command = getattr(import_module(module_of(name)), name.capitalize())
    assert command.__module__ == module_of(name)
    assert command.name == f"jupyter-session-store {name}"


def test_help_imports_no_other_subcommand() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS_OF_HELP], capture_output=True, text=True, check=True
    )
    modules = {module_of(name) for name in SessionStoreApp.subcommands}
    imported = {
        name: modules.intersection(found)
        for name, *found in (line.split() for line in done.stderr.splitlines())
    }
    assert imported == {name: {module_of(name)} for name in SessionStoreApp.subcommands}
