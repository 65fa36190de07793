"""What all subcommands share: settings, the database, questions, errors, exit codes."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from inspect import cleandoc
from textwrap import indent
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from jupyter_core.application import JupyterApp, base_aliases, base_flags
from traitlets import Bool, TraitError, Unicode
from traitlets.config import Configurable

from .._version import __version__
from ..errors import ConfigurationError, SchemaMismatch, SessionStoreError, StoreUnavailable
from .arguments import asks_for_help, check_words
from .output import Output, OutputError, flush, harmless

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from ..config.settings import Settings

__all__ = ["CommandLine", "ExitCode", "StoreCommand", "wrong_usage"]


class ExitCode(IntEnum):
    """What a subcommand ends with."""

    #: Done, or the answer is yes.
    DONE = 0
    #: The answer is no: behind, unwell, not found, not confirmed.
    NO = 1
    #: What was typed, or a setting, is wrong.
    WRONG_USAGE = 2
    #: The database, or where the output goes, cannot be used now.
    UNAVAILABLE = 3
    #: The schema of the database does not fit.
    SCHEMA_MISMATCH = 4
    #: Ctrl-C.
    INTERRUPTED = 130
    #: Who read the output has read enough.
    BROKEN_PIPE = 141


_FAULTS: Final = (
    (StoreUnavailable, ExitCode.UNAVAILABLE),
    (SchemaMismatch, ExitCode.SCHEMA_MISMATCH),
    ((SessionStoreError, TraitError), ExitCode.WRONG_USAGE),
)


def wrong_usage(text: str) -> NoReturn:
    """Say what is wrong with what was typed, and exit."""
    _tell(text)
    sys.exit(ExitCode.WRONG_USAGE)


def _tell(text: str) -> None:
    sys.stderr.write(f"Error: {harmless(text)}\n")


#: A command that a text advises, with no database named.
_COMMAND: Final = re.compile(r"\bjupyter session-store [a-z]+\b(?! --)")
#: Settings of every command, which set no option's value.
_LOGGING: Final = frozenset({"log_datefmt", "log_format", "logging_config"})
#: What servers and commands read of one and the same setting.
_SECTIONS_OF_SETTINGS: Final = frozenset({"PersistentSessionManager", "SessionManager"})


class CommandLine(JupyterApp):
    """What the command and its subcommands share of traitlets' command line."""

    version = __version__

    def parse_command_line(self, argv: Any = None) -> None:
        """Read the command line; traitlets goes on without an option it does not know."""
        words: Sequence[str] = sys.argv[1:] if argv is None else argv
        if not (words and words[0] in (*self.subcommands, "help")) and not asks_for_help(words):
            try:
                check_words(words, *self._options(), self.reads)
            except ConfigurationError as error:
                wrong_usage(f"{error} Nothing was changed. See: {self._help}")
        super().parse_command_line(argv)

    def _options(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the flags, and the other options, with their dashes."""
        flags = {"-" * min(len(name), 2) + name: value for name, value in self.flags.items()}
        return flags, {f"--{name}": setting for name, setting in self.aliases.items()}

    @property
    def _help(self) -> str:
        return f"jupyter {self.name.removeprefix('jupyter-')} --help"

    def reads(self, section: str, name: str) -> bool:
        """Return whether a setting may be given as ``--Class.name=``: whether it does something.

        Parameters
        ----------
        section, name : str
            The class and the name of the setting.
        """
        return name in self._own_settings() and any(
            section == kind.__name__ and name in kind.class_trait_names(config=True)
            for kind in type(self).mro()
            if issubclass(kind, Configurable)
        )

    def _own_settings(self) -> set[str]:
        """Return the names of the settings that are options, too, and those of the log."""
        flags, aliases = self._options()
        of_flags = {
            name for sections, _ in flags.values() for one in sections.values() for name in one
        }
        return {*_LOGGING, *of_flags, *(one.rpartition(".")[2] for one in aliases.values())}

    def start_show_config(self) -> None:
        """Refuse it: passwords are among what it would show."""
        wrong_usage(
            "show_config is set, which would show passwords; expected it not to be. Read the "
            "configuration files; their folders are listed by: jupyter --paths"
        )

    def emit_examples(self) -> Generator[str, None, None]:
        """Yield the examples, each as far from the edge as the others."""
        yield from ("Examples", "--------", "", indent(cleandoc(str(self.examples)), "    "), "")

    def exit(self, exit_status: int | str | None = 0) -> None:
        """Exit; what traitlets could not read is wrong usage."""
        super().exit(ExitCode.WRONG_USAGE if exit_status == 1 else exit_status)


class StoreCommand(CommandLine):
    """A subcommand. Its `run` returns an exit code, or raises an error of the package."""

    config_file_name = "jupyter_server_config"
    raise_config_file_errors = True
    aliases: Any = {
        "config": base_aliases["config"],
        "log-level": base_aliases["log-level"],
        "url": "StoreCommand.url",
    }
    flags: Any = {
        "debug": base_flags["debug"],
    }
    #: The names of the arguments without dashes, all of which have to be given.
    arguments: ClassVar[tuple[str, ...]] = ()
    #: How many of the last of them may be left out.
    optional_arguments: ClassVar[int] = 0
    #: What is said when Ctrl-C ends it.
    if_interrupted: str = "Nothing was changed."

    url = Unicode(
        help="""
        Another database than the configured one: env:NAME (an environment
        variable that holds the URL), file:PATH (a file that does), or a URL or
        path without a password. Its engine options are the configured ones.
        """
    ).tag(config=True)

    as_json = Bool(False, help="Print JSON.").tag(config=True)

    def initialize(self, argv: Any = None) -> None:
        """Read the command line and the configuration files."""
        try:
            super().initialize(argv)
            self._refuse_empty_settings()
        except KeyboardInterrupt:
            sys.exit(_interrupted("Nothing was changed."))
        except Exception as error:
            # A configuration file is a program, and fails in any way.
            wrong_usage(
                f"The configuration cannot be read: {type(error).__name__}: {error}. Run: "
                "jupyter --paths (it lists the folders of the configuration files)"
            )

    def _refuse_empty_settings(self) -> None:
        """Refuse an option that a configuration file leaves empty: it would mean everything."""
        for section, found in self.config.items():
            kinds = (kind for kind in type(self).mro() if kind.__name__ == section)
            if not any(issubclass(kind, StoreCommand) for kind in kinds):
                continue
            for name, value in found.items():
                if value == "":
                    wrong_usage(
                        f"c.{section}.{name} is empty; expected a value, or no such setting. "
                        "Nothing was changed."
                    )

    def parse_command_line(self, argv: Any = None) -> None:
        """Read the command line; a configuration file that it names has to be there."""
        super().parse_command_line(argv)
        if self.config_file:
            stem = os.path.splitext(self.config_file)[0]
            if not any(os.path.isfile(f"{stem}{suffix}") for suffix in (".py", ".json")):
                wrong_usage(
                    f"There is no file {self.config_file!r}; expected a configuration file for "
                    "--config. Nothing was changed."
                )

    def reads(self, section: str, name: str) -> bool:
        """Return whether a setting may be given: those of the database may, too."""
        if section not in _SECTIONS_OF_SETTINGS:
            return super().reads(section, name)
        from ..config.database import DatabaseSettings

        return name in DatabaseSettings.class_trait_names(config=True)

    def start(self) -> None:
        """Run the subcommand and exit with its code."""
        super().start()
        code = self._code()
        try:
            flush()
        except (BrokenPipeError, OutputError):
            _discard_output()
        sys.exit(code)

    def _code(self) -> ExitCode:
        try:
            self._check_arguments()
            code = self.run()
            flush()
        except KeyboardInterrupt:
            return _interrupted(self.if_interrupted)
        except BrokenPipeError:
            _discard_output()
            return ExitCode.BROKEN_PIPE
        except OutputError as error:
            _discard_output()
            _tell(str(error))
            return ExitCode.UNAVAILABLE
        except OSError as error:
            return _failed(error)
        except (SessionStoreError, TraitError) as error:
            _tell(self.cured(str(error)))
            return next(code for kinds, code in _FAULTS if isinstance(error, kinds))
        return code

    def _check_arguments(self) -> None:
        given, names = self.extra_args, self.arguments
        if len(names) - self.optional_arguments <= len(given) <= len(names):
            return
        expected = " ".join(names) if names else "none"
        raise ConfigurationError(
            f"Found {len(given)} arguments ({' '.join(map(repr, given)) or 'none'}); "
            f"expected {expected}. See: {self._help}"
        )

    def cured(self, text: str, given: str | None = None) -> str:
        """Return a text whose commands name the database that is meant.

        Parameters
        ----------
        text : str
            It may say which command mends what it tells.
        given : str, optional
            The database as ``--url`` has it; by default what ``--url`` says.
        """
        url = self.url if given is None else given
        if not url:
            return text
        return _COMMAND.sub(lambda found: f"{found[0]} --url {shlex.quote(url)}", text)

    def run(self) -> ExitCode:
        """Do what the subcommand is for."""
        raise NotImplementedError

    @property
    def output(self) -> Output:
        """Where results go."""
        return Output(self.as_json)

    def note(self, text: str) -> None:
        """Tell the person at the terminal something that is no result."""
        sys.stderr.write(f"{harmless(text)}\n")

    def confirm(self, question: str) -> bool:
        """Ask, unless ``--yes`` was given.

        Raises
        ------
        ConfigurationError
            If there is nobody to ask.
        """
        if self.answer_yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"{question} There is no terminal to ask at; expected --yes. Nothing was changed."
            )
        sys.stderr.write(f"{harmless(question)} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return True
        self.note("Nothing was changed.")
        return False

    def refuse_unanswerable(self) -> None:
        """Refuse, before any work is done, what could not be confirmed after it.

        Raises
        ------
        ConfigurationError
            If :meth:`confirm` would find nobody to ask.
        """
        if not self.answer_yes and not sys.stdin.isatty():
            raise ConfigurationError(
                "This asks before it removes anything, and there is no terminal to ask at; "
                "expected --yes, or --dry-run to see what it would remove. Nothing was changed."
            )

    def settings(self, given: str = "") -> Settings:
        """Return which database, and how to reach it.

        Parameters
        ----------
        given : str
            As ``--url`` has it; by default the configured database.
        """
        from ..config.settings import Settings

        if given:
            return Settings.from_argument(given, self.config)
        return Settings.from_config(self.config)

    @contextmanager
    def database(self, given: str | None = None, *, create: bool = False) -> Iterator[Engine]:
        """Yield the engine of a database, for as long as its operations take.

        Parameters
        ----------
        given : str, optional
            As ``--url`` has it; by default what ``--url`` says.
        create : bool
            Whether a SQLite file may be made.
        """
        from ..sql.admin import admin_connection

        found = self.settings(self.url if given is None else given)
        with admin_connection.engine(found.url, found.engine_options, create=create) as engine:
            yield engine

    @contextmanager
    def connection(self, given: str | None = None) -> Iterator[Connection]:
        """Yield a connection to a database whose schema fits."""
        from ..sql.admin import admin_connection

        with self.database(given) as engine, admin_connection.connected(engine) as connection:
            admin_connection.require_usable(connection)
            yield connection


def _interrupted(text: str) -> ExitCode:
    sys.stderr.write(f"\nInterrupted. {text}\n")
    return ExitCode.INTERRUPTED


def _discard_output() -> None:
    """Let what is flushed at the exit go nowhere: it has failed once."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: OSError) -> ExitCode:
    """Say what of the operating system's went wrong."""
    reason = f"{type(error).__name__}: {error.strerror}"
    if error.filename is None:
        _tell(f"The operating system has refused something: {reason}.")
        return ExitCode.UNAVAILABLE
    _tell(f"{str(error.filename)!r} cannot be used: {reason}.")
    return ExitCode.WRONG_USAGE


#: For the subcommands that ask before they do something.
YES_FLAGS: Final[dict[str, Any]] = {
    name: ({"JupyterApp": {"answer_yes": True}}, "Do not ask.") for name in ("yes", "y")
}
#: For those that list.
JSON_FLAG: Final[dict[str, Any]] = {
    "json": ({"StoreCommand": {"as_json": True}}, "Print JSON instead of a table.")
}
