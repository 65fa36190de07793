"""The help of a command: usage, arguments and options, as wide as the terminal is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from inspect import cleandoc
from textwrap import indent, wrap
from typing import TYPE_CHECKING, Any, Final

from traitlets import Enum, TraitType
from traitlets.config import Configurable

if TYPE_CHECKING:
    from .command_line import CommandLine

#: Lines that are longer are hard to read.
_WIDEST: Final = 88
#: The columns of the options, and of what is said of them, where there is room for both.
_NAMES: Final = 24
_NARROW: Final = 60
#: Options that traitlets reads itself.
SHOWING: Final[Mapping[str, str]] = {
    "-h, --help": "Show this help.",
    "--help-all": "Show it with the settings, each of which is c.Class.name in a file.",
    "-V, --version": "Show the version.",
}


def help_lines(
    command: CommandLine, common: Mapping[str, str], *, with_settings: bool = False
) -> Iterator[str]:
    """Yield the help of a command; those of its options that are `common` come last.

    `with_settings` lists what else can be given as ``--Class.name=VALUE``, too.
    """
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    yield from wrap(f"usage: {usage(command)}", width, subsequent_indent="    ")
    yield ""
    for paragraph in re.split(r"\n\s*\n", cleandoc(str(command.description))):
        yield from wrap(paragraph, width)
        yield ""
    subcommands = {name: text for name, (_, text) in command.subcommands.items()}
    yield from _section("Subcommands", subcommands, width)
    yield from _section("Arguments", command.arguments, width)
    options = options_of(command)
    own = {name: text for name, text in options.items() if name not in common}
    yield from _section("Options", own, width)
    others = {name: text for name, text in options.items() if name in common}
    yield from _section("Options of every subcommand", {**others, **SHOWING}, width)
    if with_settings:
        yield from _section("Settings", _settings_of(command), width)
    if command.examples:
        yield "Examples:"
        yield indent(cleandoc(str(command.examples)), "  ")
        yield ""


def usage(command: CommandLine) -> str:
    """Return how a command is typed."""
    required = len(command.arguments) - command.optional_arguments
    words = [
        name if place < required else f"[{name}]" for place, name in enumerate(command.arguments)
    ]
    if command.subcommands:
        words = ["SUBCOMMAND"]
    return " ".join((command.typed, "[OPTIONS]", *words))


def options_of(command: CommandLine | type[CommandLine]) -> dict[str, str]:
    """Return the options of a command, as they are typed, and what each is for."""
    names: dict[str, list[str]] = {}
    for name, (_, text) in declared(command, "flags").items():
        names.setdefault(_in_one_line(text), []).append("-" * min(len(name), 2) + name)
    found = {", ".join(sorted(same, key=len)): text for text, same in names.items()}
    for name, target in declared(command, "aliases").items():
        trait = trait_of(command, target)
        placeholder = trait.metadata.get("metavar") or name.upper().replace("-", "_")
        text = _in_one_line(str(trait.help))
        if isinstance(trait, Enum):
            text += f" One of {', '.join(allowed_words(trait))}."
        found[f"--{name}={placeholder}"] = text
    return found


def allowed_words(trait: Enum[Any]) -> list[str]:
    """Return the values of a trait that are words: a level of the log may be a number, too."""
    return [one for one in trait.values or () if one and isinstance(one, str)]


def _settings_of(command: CommandLine) -> dict[str, str]:
    """Return the settings that a command accepts as ``--Class.name=VALUE``."""
    kinds = [kind for kind in type(command).mro() if issubclass(kind, Configurable)]
    return {
        f"--{kind.__name__}.{name}=VALUE": _in_one_line(str(trait.help))
        for kind in kinds
        for name, trait in sorted(kind.class_own_traits(config=True).items())
        if command.accepts_setting(kind.__name__, name)
    }


def declared(command: CommandLine | type[CommandLine], name: str) -> Mapping[str, Any]:
    """Return the ``"flags"`` or the ``"aliases"`` of a command, as they are declared."""
    value: Any = getattr(command, name)
    found: Any = value.default() if isinstance(value, TraitType) else value
    return dict(found)


def trait_of(command: CommandLine | type[CommandLine], setting: str) -> TraitType[Any, Any]:
    """Return the trait of a setting, ``Class.name``."""
    section, _, name = setting.partition(".")
    kinds: Any = (command if isinstance(command, type) else type(command)).mro()
    owner = next(kind for kind in kinds if kind.__name__ == section)
    trait: TraitType[Any, Any] = owner.class_traits()[name]
    return trait


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _section(title: str, rows: Mapping[str, str], width: int) -> Iterable[str]:
    if not rows:
        return
    yield f"{title}:"
    margin = 6 if width < _NARROW else _NAMES
    for name, text in rows.items():
        lines = wrap(text, width - margin, break_on_hyphens=False)
        head = f"  {name}"
        if len(head) <= margin - 2:
            head = f"{head:<{margin}}{lines.pop(0) if lines else ''}"
        yield head.rstrip()
        yield from (" " * margin + line for line in lines)
    yield ""
