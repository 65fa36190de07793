"""What the package says when something is wrong, read off its source.

Every error and every line of the log is written out where it is raised, so the
source has them all. What is put in at run time is shown in angle brackets.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jupyter_session_store

_PACKAGE: Final = Path(jupyter_session_store.__file__).parent
#: For tests, and migrations in a wheel.
_LEFT_OUT: Final = ("testing", "migrations")
#: Errors of others, which carry texts of ours, and what a command is ended with.
_OTHERS: Final[Mapping[str, int]] = {"TraitError": 0, "HTTPError": 1, "exit_with_usage_error": 0}
#: At least so many words are a text, and not only what another error says.
_WORDS: Final = 3
#: What the name of an attribute or a function in the source means to a reader.
_MEANINGS: Final[Mapping[str, str]] = {
    "__name__": "kind",
    "describe": "database",
    "get_backend_name": "database",
    "get_driver_name": "driver",
    "join": "names",
    "len": "number",
    "redact": "reason",
}


def error_texts(kinds: Mapping[str, type[Exception]]) -> dict[str, list[str]]:
    """Return the texts of each kind of error, the kinds and the texts sorted.

    Parameters
    ----------
    kinds : mapping
        The package's own, by their names.
    """
    found: dict[str, set[str]] = {}
    for module, call in _calls():
        name = _name(call.func)
        if name in kinds:
            text = _made(kinds[name], [_text(part, module) for part in call.args])
            if text is None:
                continue
        elif name in _OTHERS and len(call.args) > _OTHERS[name]:
            text = _text(call.args[_OTHERS[name]], module)
        else:
            continue
        if _is_text(text):
            found.setdefault(name, set()).add(text)
    return {name: sorted(found[name]) for name in sorted(found)}


def log_texts() -> list[str]:
    """Return the lines that the log has of what an operator should know, sorted."""
    found = set()
    for module, call in _calls():
        level = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if level not in ("info", "warning", "error", "exception") or not call.args:
            continue
        text = _text(call.args[0], module)
        for part in call.args[1:]:
            text = re.sub(r"%[.\d]*\w", lambda _, part=part: _placeholder(part), text, count=1)  # type: ignore[misc]
        if _is_text(text):
            found.add(text)
    return sorted(found)


def _calls() -> Iterator[tuple[Any, ast.Call]]:
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
        if parts[1] in _LEFT_OUT:
            continue
        module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield module, node


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _made(kind: type[Exception], parts: list[str]) -> str | None:
    """Return what an error with such parts says; ``None`` if that is only what another says."""
    if kind.__init__ is Exception.__init__:
        return " ".join(parts)
    if parts and re.fullmatch(r"<[^>]*>(: <[^>]*>)*", parts[0]):
        names = list(inspect.signature(kind).parameters)
        if names[0] == "reason":
            return None
        parts[0] = f"<{names[0].replace('_', ' ')}>"
    return str(kind(*parts))


def _is_text(text: str) -> bool:
    return len(re.findall(r"(?<![<\w])[a-z]{2,}(?![\w>])", text)) >= _WORDS


def _text(node: ast.expr, module: Any) -> str:
    """Return a string as it is written, with angle brackets for what is put in."""
    if isinstance(node, ast.Constant):
        return " ".join(str(node.value).split(" "))
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, module) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, module)
    if isinstance(node, ast.BinOp):
        return _text(node.left, module) + _text(node.right, module)
    constant = getattr(module, node.id, None) if isinstance(node, ast.Name) else None
    return str(constant) if isinstance(constant, (int, str)) else _placeholder(node)


def _placeholder(node: ast.expr) -> str:
    """Return a word in angle brackets for an expression."""
    return f"<{_meaning(node).strip('_').replace('_', ' ').lower()}>"


def _meaning(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        name = _name(node.func)
        if name in _MEANINGS or not node.args:
            return _MEANINGS.get(name, name)
        return _meaning(node.args[0])
    if isinstance(node, ast.Attribute):
        return _MEANINGS.get(node.attr, node.attr)
    if isinstance(node, ast.Subscript):
        return _meaning(node.value)
    return node.id if isinstance(node, ast.Name) else "value"
