"""The shape of the package: small classes that are composed, each the owner of its attributes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import jupyter_session_store
from jupyter_session_store import PersistentSessionManager

PACKAGE: Final = Path(jupyter_session_store.__file__).parent

MOST_METHODS: Final = 25
#: Classes whose interface is not this package's to choose, and how many methods they may have.
FACADES: Final = {
    # Jupyter's interface, and the properties that refuse its SQLite connection.
    "PersistentSessionManager": 32,
}
MOST_LINES: Final = 600

#: What a class of Jupyter, Tornado or traitlets declares, from which the class inherits.
FOREIGN_ATTRIBUTES: Final = {
    ("Downgrade", "extra_args"),  # traitlets' Application
    ("KernelWebsocket", "disconnected"),  # Jupyter Server's GatewayWebSocketConnection
    ("OutlivingProvisioner", "connection_info"),  # jupyter_client's LocalProvisioner
    ("OutlivingProvisioner", "cwd"),
    ("OutlivingProvisioner", "ip"),
    ("OutlivingProvisioner", "pgid"),
    ("OutlivingProvisioner", "pid"),
    ("OutlivingProvisioner", "ports_cached"),
    ("OutlivingProvisioner", "process"),
    ("PersistentGatewayKernel", "execution_state"),  # Jupyter Server's GatewayKernelManager
    ("PersistentGatewayKernel", "kernel"),
    ("PersistentGatewayKernel", "kernel_id"),
    ("PersistentGatewayKernel", "kernel_name"),
    ("PersistentGatewayKernel", "kernel_url"),
    ("PersistentGatewayKernel", "last_activity"),
    ("PersistentGatewayKernelManager", "_initialized_culler"),  # its MappingKernelManager
    ("PersistentKernel", "_attempted_start"),  # Jupyter Server's ServerKernelManager
    ("PersistentKernel", "_connection_file_written"),
    ("PersistentKernel", "_kernel_info_future"),  # its websockets look for it there
    ("PersistentKernel", "_kernel_spec"),
    ("PersistentKernel", "_launch_args"),
    ("PersistentKernel", "_random_port_names"),
    ("PersistentKernel", "_ready"),
    ("PersistentKernel", "execution_state"),
    ("PersistentKernel", "kernel_id"),
    ("PersistentKernel", "last_activity"),
    ("PersistentKernel", "provisioner"),
    ("PersistentKernel", "reason"),
    ("SessionRootHandler", "get_json_body"),  # its APIHandler, whose POST reads the body again
}
#: What makes an object ready. Tornado's handlers have the second, which their constructor calls.
CONSTRUCTORS: Final = frozenset({"__init__", "initialize"})

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


class Declared(NamedTuple):
    """A class as its source has it."""

    name: str
    bases: frozenset[str]
    node: ast.ClassDef


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def classes() -> list[Declared]:
    return [
        Declared(
            node.name,
            frozenset(
                base.attr if isinstance(base, ast.Attribute) else base.id
                for base in node.bases
                if isinstance(base, (ast.Attribute, ast.Name))
            ),
            node,
        )
        for _path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]


def assigned(method: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """Return the attributes that a method assigns to its first argument."""
    parameters = [*method.args.posonlyargs, *method.args.args]
    if not parameters:
        return set()
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == parameters[0].arg
    }


def declared(one: Declared) -> set[str]:
    """Return the attributes that a class declares, in its body or in its constructor."""
    names: set[str] = set()
    for node in one.node.body:
        if isinstance(node, Function):
            # A property with a setter is declared by its name.
            names.add(node.name)
            if node.name in CONSTRUCTORS:
                names |= assigned(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
            names |= targets
            if "__slots__" in targets:
                names |= set(ast.literal_eval(node.value))
    return names


def test_the_manager_is_no_ladder_of_classes() -> None:
    """It, and what declares its settings."""
    own = [one for one in PersistentSessionManager.__mro__ if _is_ours(one)]
    assert len(own) <= 3, own


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == jupyter_session_store.__name__


def test_no_class_has_too_many_methods() -> None:
    too_many = {
        one.name: number
        for one in classes()
        if (number := sum(isinstance(node, Function) for node in one.node.body))
        > FACADES.get(one.name, MOST_METHODS)
    }
    assert too_many == {}


def test_no_file_is_too_long() -> None:
    lines = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path, _tree in trees()
    }
    assert {path: number for path, number in lines.items() if number > MOST_LINES} == {}


def test_every_attribute_is_declared_by_its_own_class() -> None:
    """Or by a class of this package that it inherits from: not by whoever sets it first."""
    all_classes = classes()
    by_name: dict[str, list[Declared]] = {}
    for one in all_classes:
        by_name.setdefault(one.name, []).append(one)

    def known(one: Declared) -> set[str]:
        names = declared(one)
        for base in one.bases:
            for parent in by_name.get(base, []):
                if parent is not one:
                    names |= known(parent)
        return names

    undeclared = {
        (one.name, attribute)
        for one in all_classes
        for method in one.node.body
        if isinstance(method, Function) and method.name not in CONSTRUCTORS
        for attribute in assigned(method) - known(one)
    }
    assert undeclared - FOREIGN_ATTRIBUTES == set()
    assert FOREIGN_ATTRIBUTES - undeclared == set(), "these need no exception any more"


@pytest.mark.parametrize("name", ["ContextVar", "contextvars"])
def test_no_state_is_hidden_in_the_context(name: str) -> None:
    using = [str(path.relative_to(PACKAGE)) for path, tree in trees() if _names(tree, name)]
    assert using == []


def _names(tree: ast.Module, name: str) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id == name)
        or (isinstance(node, ast.Attribute) and node.attr == name)
        or (isinstance(node, ast.alias) and node.name == name)
        or (isinstance(node, ast.ImportFrom) and node.module == name)
        for node in ast.walk(tree)
    )
