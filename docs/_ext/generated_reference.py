"""The parts of the reference that are written by the code itself.

A page has a line such as ``<!-- generated: tables -->``, which is replaced when the
page is read, by Sphinx and by the tests of the documentation alike. So a trait, an
option, an exit code or a column that is added is in the reference, in the words
that its own help or comment has.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Final

from error_texts import error_texts, log_texts
from traitlets import Bool, Dict, Enum, Float, HasTraits, Int, TraitType, Unicode
from traitlets.traitlets import DefaultHandler

from jupyter_session_store import errors
from jupyter_session_store.cli import app as cli
from jupyter_session_store.cli.command import ExitCode, StoreCommand
from jupyter_session_store.kernels.gateway.manager import PersistentGatewayKernelManager
from jupyter_session_store.kernels.outliving.manager import PersistentKernelManager
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.sql import models, tables
from jupyter_session_store.sql.schema import migrating, versions

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MARK: Final = re.compile(r"^<!-- generated: ([\w-]+)(?: (\S+))? -->$", re.MULTILINE)
_TYPES: Final[Mapping[type[TraitType[Any, Any]], str]] = {
    Bool: "`True` or `False`",
    Dict: "a dictionary",
    Float: "a number",
    Int: "a whole number",
    Unicode: "a string",
}


def expand(text: str) -> str:
    """Return a page with what is generated for it in its place."""
    return _MARK.sub(lambda mark: _PARTS[mark[1]](*filter(None, [mark[2]])), text)


def is_generated(text: str) -> bool:
    """Return whether a part of a page is generated."""
    return _MARK.search(text) is not None


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads)]
    lines.append(["---"] * len(lines[0]))
    lines += ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _prose(text: str) -> str:
    """Return the paragraphs of a help text, each in one line."""
    text = re.sub(r":\w+:`[~.]*([\w.]+)`", r"`\1`", text)
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _comments(owner: type) -> dict[str, str]:
    """Return what the comments that begin with ``#:`` say of a class's attributes."""
    found: dict[str, str] = {}
    said: list[str] = []
    for line in inspect.getsource(owner).splitlines():
        comment = re.match(r"\s*#: ?(.*)", line)
        name = re.match(r"\s*(\w+)\s*[:=]", line)
        if comment:
            said.append(comment[1])
        else:
            if name and said:
                found[name[1]] = " ".join(said)
            said = []
    return found


# --- settings ----------------------------------------------------------------------------------


@cache
def settings() -> Mapping[str, tuple[type[HasTraits], TraitType[Any, Any]]]:
    """Return every setting of a server, as it is written after ``c.``."""
    found: dict[str, tuple[type[HasTraits], TraitType[Any, Any]]] = {}
    owner: type[HasTraits]
    for owner in (
        PersistentSessionManager,
        PersistentKernelManager,
        PersistentGatewayKernelManager,
    ):
        for kind in inspect.getmro(owner):
            if not kind.__module__.startswith("jupyter_session_store."):
                continue
            own: Any = getattr(kind, "class_own_traits", dict)
            for name, trait in own(config=True).items():
                section = trait_section(owner, name)
                found.setdefault(f"{section}.{name}", (owner, trait))
    return found


def trait_section(owner: type, name: str) -> str:
    """Return under which class a setting is given: that of Jupyter Server, where it has it."""
    homes = [kind for kind in inspect.getmro(owner) if name in vars(kind)]
    home = homes[-1] if homes[-1].__module__.startswith("jupyter_server") else owner
    return home.__name__


def _setting(name: str) -> str:
    owner, trait = settings()[name]
    text = _prose(str(trait.help)) + "\n\n" + _kind_and_default(owner, trait)
    return f"`c.{name}`\n: {indent(text, '  ').lstrip()}"


def _kind_and_default(owner: type[HasTraits], trait: TraitType[Any, Any]) -> str:
    if isinstance(trait, Enum):
        kind = f"One of {', '.join(f'`{value!r}`' for value in trait.values or ())}"
    else:
        kind = next(word for base, word in _TYPES.items() if isinstance(trait, base))
    kind = kind[0].upper() + kind[1:]
    attributes = (one for home in owner.__mro__ for one in vars(home).values())
    if any(_computes_default_of(trait, one) for one in attributes):
        # For the help to tell.
        return f"{kind}."
    return f"{kind}; default: `{trait.default()!r}`."


def _computes_default_of(trait: TraitType[Any, Any], attribute: object) -> bool:
    return isinstance(attribute, DefaultHandler) and attribute.trait_name == trait.name


# --- commands ----------------------------------------------------------------------------------


@cache
def commands() -> Mapping[str, type[StoreCommand]]:
    """Return the subcommands, by their names."""
    found = {}
    for name, (place, _) in cli.SessionStoreApp.subcommands.items():
        module, _, attribute = place.rpartition(".")
        found[name] = getattr(importlib.import_module(module), attribute)
    return found


def _exit_codes() -> str:
    said = _comments(ExitCode)
    return _table(("code", "meaning"), ((f"`{code.value}`", said[code.name]) for code in ExitCode))


# --- tables ------------------------------------------------------------------------------------


def _tables() -> str:
    return "\n\n".join(map(_table_of, models.Base.__subclasses__()))


def _table_of(model: Any) -> str:
    table = model.__table__
    rows = ((f"`{column.name}`", _column_type(column), column.doc) for column in table.columns)
    parts = [
        f"## {table.name}",
        _prose(inspect.getdoc(model) or ""),
        _table(("column", "type", "meaning"), rows),
        _keys(table),
    ]
    return "\n\n".join(parts)


def _column_type(column: Any) -> str:
    kind = column.type
    if isinstance(kind, tables.ExactText):
        text = f"text, {kind.length}" if kind.length else "long text"
    elif isinstance(kind, tables.UTCDateTime):
        text = "time"
    else:
        text = "integer"
    return f"{text}, or null" if column.nullable else text


def _keys(table: Any) -> str:
    found = {}
    for constraint in table.constraints:
        words = {"PrimaryKeyConstraint": "primary key", "UniqueConstraint": "unique"}
        found[constraint.name] = (words[type(constraint).__name__], constraint.columns)
    found |= {index.name: ("index", index.columns) for index in table.indexes}
    rows = (
        (f"`{name}`", kind, ", ".join(f"`{column.name}`" for column in columns))
        for name, (kind, columns) in sorted(found.items(), key=lambda one: str(one[0]))
    )
    return _table(("key", "kind", "columns"), rows)


def _revisions() -> str:
    rows = (
        (
            f"`{one.id}`",
            one.title,
            one.kind,
            str(one.oldest_compatible_code),
            one.downgrade_loses or "nothing",
        )
        for one in migrating.revisions()
    )
    return _table(
        ("revision", "title", "kind", "oldest generation of code", "a downgrade loses"), rows
    )


# --- errors ------------------------------------------------------------------------------------

#: Of errors that are not the package's own.
_HEADINGS: Final[Mapping[str, str]] = {
    "HTTPError": "HTTPError, of tornado",
    "TraitError": "TraitError, of traitlets",
    "exit_with_usage_error": "What a command ends with, exit code 2",
}


def _errors() -> str:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    said = error_texts({kind.__name__: kind for kind in kinds if issubclass(kind, Exception)})
    return "\n\n".join(
        f"### {_HEADINGS.get(name, name)}\n\n{_list(texts)}" for name, texts in said.items()
    )


def _log() -> str:
    return _list(log_texts())


def _list(texts: Iterable[str]) -> str:
    return "\n".join(f"- ``{text}``" for text in texts)


def _schema_states() -> str:
    """Return what is said of each state of a database's schema."""
    examples = {
        versions.State.EMPTY: versions.Status(versions.State.EMPTY, None),
        versions.State.BEHIND: versions.Status(versions.State.BEHIND, "0000", 1),
        versions.State.AHEAD_COMPATIBLE: versions.Status(
            versions.State.AHEAD_COMPATIBLE, "0009", 1
        ),
        versions.State.AHEAD_INCOMPATIBLE: versions.Status(
            versions.State.AHEAD_INCOMPATIBLE, "0009", versions.CODE + 1
        ),
        versions.State.DAMAGED: versions.Status(
            versions.State.DAMAGED, versions.HEAD, 1, missing=("jupyter_sessions",)
        ),
        versions.State.FOREIGN: versions.Status(versions.State.FOREIGN, None),
    }
    database = "postgresql jupyter@db:5432/jupyter"
    rows = (
        (state.value, f"``{' '.join(versions.explain(found, database).split())}``")
        for state, found in examples.items()
    )
    return _table(("state", "what is said"), rows)


_PARTS: Final[Mapping[str, Callable[..., str]]] = {
    "setting": _setting,
    "exit-codes": _exit_codes,
    "tables": _tables,
    "revisions": _revisions,
    "errors": _errors,
    "log": _log,
    "schema-states": _schema_states,
}


# --- Sphinx ------------------------------------------------------------------------------------


def _on_read(_app: Sphinx, _name: str, source: list[str]) -> None:
    source[0] = expand(source[0])


def _outdated(app: Sphinx, *_: Any) -> list[str]:
    """Return the pages to read again, though they are as they were: the code may not be."""
    env = app.env
    return [
        name
        for name in env.found_docs
        if is_generated(Path(env.doc2path(name)).read_text(encoding="utf-8"))
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the replacement."""
    app.connect("source-read", _on_read)
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True}
