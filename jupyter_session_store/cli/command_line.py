"""What the command and its subcommands share of the command line, and their exit codes.

Traitlets ignores unknown options, so what was typed is checked before it is read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import IntEnum
from typing import Any, ClassVar, Final, NoReturn

from jupyter_core.application import JupyterApp
from traitlets import Enum, Float, Int, TraitError, TraitType
from traitlets.config import Config, Configurable
from traitlets.config.loader import DeferredConfig

from .._version import __version__
from ..errors import ConfigurationError
from ..locations import without_credentials
from .help import allowed_words, help_lines
from .output import OutputError, discard_output, escape_controls, flush

#: Settings that every command accepts, though no option sets them.
_LOGGING: Final = frozenset({"log_datefmt", "log_format", "logging_config"})
_SHOWING_OPTIONS: Final = frozenset({"-h", "--help", "--help-all", "-V", "--version"})
#: A value, not an option: the expression is argparse's.
_NEGATIVE_NUMBER: Final = re.compile(r"-\d+|-\d*\.\d+")
#: What traits expect, in words.
_EXPECTED: Final[Mapping[type[TraitType[Any, Any]], str]] = {
    Float: "a number",
    Int: "a whole number",
}


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
    """Write an error to standard error, without credentials that stood in a wrong place."""
    sys.stderr.write(f"Error: {escape_controls(without_credentials(text))}\n")


class CommandLine(JupyterApp):
    """What the command and its subcommands share of traitlets' command line."""

    version = __version__
    #: The arguments without dashes, and what each is; one that ends with "..." may be repeated.
    arguments: ClassVar[Mapping[str, str]] = {}
    #: How many of the last arguments may be left out.
    optional_arguments: ClassVar[int] = 0

    def parse_command_line(self, argv: Any = None) -> None:
        """Check the options, then let traitlets read them: it ignores unknown ones."""
        words: Sequence[str] = sys.argv[1:] if argv is None else argv
        if not (words and words[0] in (*self.subcommands, "help")) and not _asks_for_help(words):
            try:
                _check_options(words, *self._options(), self.accepts_setting)
            except ConfigurationError as error:
                later = next((word for word in words if word in self.subcommands), None)
                order = f" Options stand after the subcommand: {self.typed} {later} [OPTIONS]."
                exit_with_usage_error(
                    f"{error}{order if later else ''} Nothing was changed. See: {self._help}"
                )
        super().parse_command_line(argv)

    def _options(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the flags, and the options with a value, each with its dashes."""
        flags = {"-" * min(len(name), 2) + name: value for name, value in self.flags.items()}
        return flags, {f"--{name}": setting for name, setting in self.aliases.items()}

    @property
    def typed(self) -> str:
        """The command as it is typed."""
        return f"jupyter {self.name.removeprefix('jupyter-')}"

    @property
    def _help(self) -> str:
        return f"{self.typed} --help"

    def update_config(self, config: Config) -> None:
        """Take over settings; a value that one cannot have is a usage error."""
        try:
            super().update_config(config)
        except TraitError as error:
            in_file = config is not self.cli_config
            wrong = next(self._wrong_values(config, in_file=in_file), f"{error}")
            exit_with_usage_error(f"{wrong} Nothing was changed. See: {self._help}")

    def _wrong_values(self, config: Config, *, in_file: bool) -> Iterator[str]:
        """Yield what is wrong with settings; no value is repeated: it may hold a password."""
        # Traitlets names the command itself, whichever of its base classes an option names.
        options = {
            setting.rpartition(".")[2]: option for option, setting in self._options()[1].items()
        }
        kinds = {kind.__name__ for kind in type(self).mro()}
        for section in (one for one in config if one in kinds):
            for name, value in config[section].items():
                trait = self.traits(config=True).get(name)
                if trait is None:
                    continue
                given = value.get_value(trait) if isinstance(value, DeferredConfig) else value
                try:
                    trait._validate(self, given)
                except TraitError:
                    setting = f"{section}.{name}"
                    shown = f"c.{setting}" if in_file else options.get(name, f"--{setting}")
                    yield f"{shown} has a wrong value; expected {_expected(trait, given)}"

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

    def common_options(self) -> dict[str, str]:
        """Return the options that every subcommand has, and what each is for."""
        return {}

    def emit_help(self, classes: bool = False) -> Generator[str, None, None]:
        """Yield the help; with `classes` that of every setting, too."""
        yield from help_lines(self, self.common_options(), with_settings=classes)

    def exit(self, exit_status: int | str | None = 0) -> None:
        """Exit; traitlets exits with 1 if it cannot read the command line."""
        try:
            flush()
        except (BrokenPipeError, OutputError) as error:
            discard_output()
            broken = isinstance(error, BrokenPipeError)
            exit_status = ExitCode.BROKEN_PIPE if broken else ExitCode.UNAVAILABLE
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
            near = suggest(option, [*flags, *aliases])
            expected = near or "expected one that the help lists."
            # After one dash a value may follow without a space, as in -pPASSWORD.
            shown = option if option[:2] == "--" else option[:2]
            raise ConfigurationError(f"There is no option {shown!r} here; {expected}")
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


def suggest(word: str, known: Collection[str], *, cutoff: float = 0.8) -> str | None:
    """Return a question for the one of the `known` words that may have been meant, if any."""
    # The cutoff of options is high, so that --force is not suggested for --from.
    words = {one.lower(): one for one in sorted(known)}
    near = get_close_matches(word.lower(), words, n=1, cutoff=cutoff)
    return f"did you mean {words[near[0]]}?" if near else None


def _expected(trait: TraitType[Any, Any], given: object) -> str:
    if not isinstance(trait, Enum):
        least = getattr(trait, "min", None)
        # That of a Float without one is -inf.
        bound = f" of at least {least}" if isinstance(least, int) else ""
        return f"{_EXPECTED.get(type(trait)) or trait.info()}{bound}."
    words = allowed_words(trait)
    near = suggest(str(given), words, cutoff=0.5)
    return f"one of {', '.join(words)}{f'; {near}' if near else '.'}"


def show_word(word: str) -> str:
    """Return what may be shown of a word that was typed: a URL may hold a password."""
    return "a URL" if "://" in word else repr(word)


def _check_value(what: str, value: str) -> None:
    if not value:
        raise ConfigurationError(
            f"{what} is empty; expected a value, or that it is left out if it may be."
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} is not UTF-8; expected text that is.") from None
