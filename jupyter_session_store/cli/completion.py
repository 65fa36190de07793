"""Completion by the shell's Tab key, with argcomplete where it is installed."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable

from traitlets import Enum
from traitlets.utils.importstring import import_item

from .command_line import CommandLine
from .help import SHOWING, allowed_words, declared, trait_of


def complete(app: type[CommandLine], subcommands: Iterable[str]) -> None:
    """Answer the shell's question and end this process, if argcomplete is installed.

    Traitlets' own way knows the options of the command alone, and not those of the subcommands.
    """
    try:
        import argcomplete
    except ImportError:
        return
    parser = ArgumentParser(add_help=False)
    _add_options(parser, app)
    parsers = parser.add_subparsers()
    for place in subcommands:
        command: type[CommandLine] = import_item(place)
        _add_options(parsers.add_parser(command.name.split()[-1], add_help=False), command)
    argcomplete.autocomplete(parser)


def _add_options(parser: ArgumentParser, command: type[CommandLine]) -> None:
    for names in SHOWING:
        parser.add_argument(*names.split(", "), action="store_true")
    for name in declared(command, "flags"):
        parser.add_argument("-" * min(len(name), 2) + name, action="store_true")
    for name, setting in declared(command, "aliases").items():
        trait = trait_of(command, setting)
        choices = allowed_words(trait) if isinstance(trait, Enum) else None
        parser.add_argument(f"--{name}", choices=choices)
    if command.arguments:
        parser.add_argument("arguments", nargs="*")
