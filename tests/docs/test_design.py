"""The design names every folder and module, and no file, class or method that is not there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from jupyter_session_store.repository import SessionRepository
from jupyter_session_store.sessions.hooks import HOOKS

from .blocks import ROOT, blocks, source

PAGE: Final = "docs/design.md"
PACKAGE: Final = ROOT / "jupyter_session_store"
#: Pages that name modules as the map does.
WITH_MODULES: Final = (PAGE, "docs/contributing.md")
#: Those of the contract; one has a default.
VERBS: Final = SessionRepository.__abstractmethods__ | {
    SessionRepository.mirror.__name__,
    SessionRepository.mirror_change.__name__,
}
#: Whose classes pages name without saying so.
OF_OTHERS: Final = frozenset({"SessionManager", "ThreadPoolExecutor", "DeprecationWarning"})


def test_the_map() -> None:
    found = {path.relative_to(PACKAGE).as_posix() for path in modules()}
    found |= {f"{folder.as_posix()}/" for folder in folders()}
    named = [name for name, _ in entries_of_the_map()]
    assert len(named) == len(set(named))
    assert sorted(found - set(named)) == [], "the map in docs/design.md lacks them"
    assert sorted(set(named) - found) == [], "the map in docs/design.md has them"
    assert [name for name, said in entries_of_the_map() if not said] == []


def test_every_file_that_is_named_is_there() -> None:
    for page in WITH_MODULES:
        for name in re.findall(r"`([\w/]+\.py|[\w/]+/)`", source(page)):
            assert (PACKAGE / name).exists() or (ROOT / name).exists(), (page, name)


def test_every_class_that_is_named_is_there() -> None:
    known = members()
    text = re.sub(r"```.*?```", "", source(PAGE), flags=re.DOTALL)
    for name, member in re.findall(r"`([A-Z][a-z]\w*[a-z]\w*)(?:\.(\w+))?`", text):
        if name in OF_OTHERS:
            continue
        assert name in known, name
        assert not member or member in known[name], (name, member)


def test_each_class_is_in_the_file_that_is_named_beside_it() -> None:
    owners = r"^\| `(\w+)` \| `([\w/]+\.py)` \|"
    text = " ".join(source(PAGE).split())
    pairs = re.findall(r"`([A-Z]\w+|\w+_\w+)` \(`([\w/]+\.py)`\)", text)
    pairs += re.findall(owners, source(PAGE), re.MULTILINE)
    assert pairs
    for name, file in pairs:
        code = (PACKAGE / file).read_text(encoding="utf-8")
        assert re.search(rf"^(?:class|def) {name}\b", code, re.MULTILINE), (name, file)


def test_the_verbs_of_the_arrows_are_in_the_contract() -> None:
    rows = re.findall(r"^\| \d+\. .*$", source(PAGE), re.MULTILINE)
    assert rows
    for row in rows:
        verbs = re.findall(r"`([a-z_]+)`", row.split(" | ")[3])
        assert verbs or " none " in row, row
        assert set(verbs) - {"expected"} <= VERBS, row


def test_every_hook_is_named() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", hooks_part(), re.MULTILINE)) == HOOKS


def hooks_part() -> str:
    return source(PAGE).partition("### Hooks")[2].partition("\n### ")[0]


def modules() -> Iterator[Path]:
    return (path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def folders() -> Iterator[Path]:
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            yield path.parent.relative_to(PACKAGE)


def entries_of_the_map() -> Iterator[tuple[str, str]]:
    """Return each path of the map, and what the map says of it."""
    (drawn,) = (block.text for block in blocks(PAGE) if block.text.startswith(f"{PACKAGE.name}/\n"))
    above: list[str] = []
    for line in drawn.splitlines()[1:]:
        margin, name, said = re.fullmatch(r"( +)(\S+)\s*(.*)", line).groups()  # type: ignore[union-attr]
        depth = len(margin) // 2 - 1
        above = [*above[:depth], name]
        yield "".join(above), said


def members() -> dict[str, set[str]]:
    """Return the names that each class of the package declares, or assigns to itself."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            names = found.setdefault(node.name, set())
            for inner in ast.walk(node):
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    names.add(inner.name)
                elif isinstance(inner, ast.Attribute):
                    names.add(inner.attr)
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    names.add(inner.target.id)
    return found
