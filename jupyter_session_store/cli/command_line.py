"""What the command and its subcommands share of the command line, and their exit codes.

Traitlets ignores unknown options, so what was typed is checked before it is read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from difflib import get_close_matches
from enum import IntEnum
from inspect import cleandoc
from textwrap import indent
from typing import Any, Final, NoReturn

from jupyter_core.application import JupyterApp
from traitlets.config import Configurable

from .._version import __version__
from ..errors import ConfigurationError
from .output import escape_controls

#: Settings that every command accepts, though no option sets them.
_LOGGING: Final = frozenset({"log_datefmt", "log_format", "logging_config"})
_SHOWING_OPTIONS: Final = frozenset({"-h", "--help", "--help-all", "-V", "--version"})
#: A value, not an option: the expression is argparse's.
_NEGATIVE_NUMBER: Final = re.compile(r"-\d+|-\d*\.\d+")


class ExitCode(IntEnum):
    """What a subcommand ends with; each means the same for all of them."""

    #: Done, or there was nothing to do; the answer is yes.
    DONE = 0
    #: The answer is no: what was named is not there, something examined failed, not confirmed.
    NO = 1
    #: What was typed, a setting or a right of the role is wrong: the same command fails again.
    WRONG_USAGE = 2
    #: The database, a server or the output is not available; try again.
    UNAVAILABLE = 3
    #: The schema of the database does not fit: it is missing, behind, too new or damaged.
    SCHEMA_MISMATCH = 4
    #: Refused: a server that is alive, or may be, uses it.
    ALIVE = 5
    #: The file of the database is not there.
    MISSING_FILE = 6
    #: Ctrl-C.
    INTERRUPTED = 130
    #: The reader closed the pipe.
    BROKEN_PIPE = 141


def exit_with_usage_error(text: str) -> NoReturn:
    """Print what is wrong with the command line or a setting, and exit."""
    print_error(text)
    sys.exit(ExitCode.WRONG_USAGE)


def print_error(text: str) -> None:
    """Write an error to standard error."""
    sys.stderr.write(f"Error: {escape_controls(text)}\n")


class CommandLine(JupyterApp):
    """What the command and its subcommands share of traitlets' command line."""

    version = __version__

    def parse_command_line(self, argv: Any = None) -> None:
        """Check the options, then let traitlets read them: it ignores unknown ones."""
        words: Sequence[str] = sys.argv[1:] if argv is None else argv
        if not (words and words[0] in (*self.subcommands, "help")) and not _asks_for_help(words):
            try:
                _check_options(words, *self._options(), self.accepts_setting)
            except ConfigurationError as error:
                exit_with_usage_error(f"{error} Nothing was changed. See: {self._help}")
        super().parse_command_line(argv)

    def _options(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the flags, and the options with a value, each with its dashes."""
        flags = {"-" * min(len(name), 2) + name: value for name, value in self.flags.items()}
        return flags, {f"--{name}": setting for name, setting in self.aliases.items()}

    @property
    def _help(self) -> str:
        return f"jupyter {self.name.removeprefix('jupyter-')} --help"

    def accepts_setting(self, section: str, name: str) -> bool:
        """Return whether ``--Class.name=`` is an option: whether the setting has an effect."""
        return name in self._own_settings() and any(
            section == kind.__name__ and name in kind.class_trait_names(config=True)
            for kind in type(self).mro()
            if issubclass(kind, Configurable)
        )

    def _own_settings(self) -> set[str]:
        """Return the names of the settings that options set, and those of the log."""
        flags, aliases = self._options()
        of_flags = {
            name for sections, _ in flags.values() for one in sections.values() for name in one
        }
        return {*_LOGGING, *of_flags, *(one.rpartition(".")[2] for one in aliases.values())}

    def start_show_config(self) -> None:
        """Refuse to show the configuration: it may hold passwords."""
        exit_with_usage_error(
            "show_config is set, which would show passwords; expected it not to be. Read the "
            "configuration files; their folders are listed by: jupyter --paths"
        )

    def emit_examples(self) -> Generator[str, None, None]:
        """Yield the examples, all with the same margin."""
        yield from ("Examples", "--------", "", indent(cleandoc(str(self.examples)), "    "), "")

    def exit(self, exit_status: int | str | None = 0) -> None:
        """Exit; traitlets exits with 1 if it cannot read the command line."""
        super().exit(ExitCode.WRONG_USAGE if exit_status == 1 else exit_status)


def _asks_for_help(words: Sequence[str]) -> bool:
    """Return whether the words ask for help or the version only."""
    return not _SHOWING_OPTIONS.isdisjoint(_before_double_dash(words))


def _check_options(
    words: Sequence[str],
    flags: Collection[str],
    aliases: Mapping[str, str],
    accepts_setting: Callable[[str, str], bool],
) -> None:
    """Refuse an option that is unknown, is given twice or has no value.

    Flags have no value; aliases have one, and name the setting that they set. Both have their
    dashes. The errors repeat no value: it may hold a password.
    """
    given: set[str] = set()
    remaining = iter(_before_double_dash(words))
    for word in remaining:
        _check_value("An argument", word)
        if not _is_option(word):
            continue
        option, equals, value = word.partition("=")
        if option in flags:
            if equals:
                raise ConfigurationError(f"Found a value for {option}; expected none.")
            continue
        setting = aliases.get(option) or _setting(option, accepts_setting)
        if setting is None:
            near = _suggest_option(option, [*flags, *aliases])
            raise ConfigurationError(f"There is no option {option!r} here; expected {near}.")
        if not equals:
            following = next(remaining, None)
            if following is None or _is_option(following):
                raise ConfigurationError(f"Found no value for {option}; expected one after it.")
            value = following
        _check_value(option, value)
        name = setting.rpartition(".")[2]
        if name in given:
            raise ConfigurationError(f"Found {option} twice; expected it once.")
        given.add(name)
    for word in words[len(_before_double_dash(words)) + 1 :]:
        _check_value("An argument", word)


def _before_double_dash(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _is_option(word: str) -> bool:
    return word[:1] == "-" and word != "-" and not _NEGATIVE_NUMBER.fullmatch(word)


def _setting(option: str, accepts_setting: Callable[[str, str], bool]) -> str | None:
    section, _, name = option.removeprefix("--").partition(".")
    return f"{section}.{name}" if option[:2] == "--" and accepts_setting(section, name) else None


def _suggest_option(option: str, known: Collection[str]) -> str:
    # The cutoff is high, so that --force is not suggested for --from.
    near = get_close_matches(option, sorted(known), n=1, cutoff=0.8)
    return near[0] if near else "one that the help lists"


def _check_value(what: str, value: str) -> None:
    if not value:
        raise ConfigurationError(
            f"{what} is empty; expected a value, or that it is left out if it may be."
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} is not UTF-8; expected text that is.") from None
