"""What all subcommands share: settings, the database, questions, errors, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from enum import IntEnum
from inspect import cleandoc
from textwrap import indent
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from jupyter_core.application import JupyterApp, base_aliases, base_flags
from traitlets import Bool, TraitError, Unicode

from .._version import __version__
from ..errors import ConfigurationError, SchemaMismatch, SessionStoreError, StoreUnavailable
from .output import Output

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from ..settings import Settings

__all__ = ["CommandLine", "ExitCode", "StoreCommand", "wrong_usage"]


class ExitCode(IntEnum):
    """What a subcommand ends with."""

    #: Done, or the answer is yes.
    DONE = 0
    #: The answer is no: behind, unwell, not found, not confirmed.
    NO = 1
    #: What was typed, or a setting, is wrong.
    WRONG_USAGE = 2
    #: The database cannot be used now.
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
    sys.stderr.write(f"Error: {text}\n")


class CommandLine(JupyterApp):
    """What the command and its subcommands share of traitlets' command line."""

    version = __version__

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
        "show-config": base_flags["show-config"],
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
        except (SystemExit, KeyboardInterrupt):
            raise
        except Exception as error:
            # A configuration file is a program, and fails in any way.
            wrong_usage(
                f"The configuration cannot be read: {type(error).__name__}: {error}. Run: "
                "jupyter --paths (it lists the folders of the configuration files)"
            )

    def start(self) -> None:
        """Run the subcommand and exit with its code."""
        super().start()
        sys.exit(self._code())

    def _code(self) -> ExitCode:
        try:
            self._check_arguments()
            code = self.run()
            sys.stdout.flush()
        except KeyboardInterrupt:
            sys.stderr.write(f"\nInterrupted. {self.if_interrupted}\n")
            return ExitCode.INTERRUPTED
        except BrokenPipeError:
            # What is flushed at the exit has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.BROKEN_PIPE
        except (SessionStoreError, TraitError) as error:
            _tell(str(error))
            return next(code for kinds, code in _FAULTS if isinstance(error, kinds))
        return code

    def _check_arguments(self) -> None:
        given, names = self.extra_args, self.arguments
        if len(names) - self.optional_arguments <= len(given) <= len(names):
            return
        expected = " ".join(names) if names else "none"
        raise ConfigurationError(
            f"Found {len(given)} arguments ({' '.join(map(repr, given)) or 'none'}); "
            f"expected {expected}. See: jupyter session-store {self.subcommand_name} --help"
        )

    @property
    def subcommand_name(self) -> str:
        """The name under which it was called."""
        return self.name.removeprefix("jupyter-session-store ")

    def run(self) -> ExitCode:
        """Do what the subcommand is for."""
        raise NotImplementedError

    @property
    def output(self) -> Output:
        """Where results go."""
        return Output(self.as_json)

    def note(self, text: str) -> None:
        """Tell the person at the terminal something that is no result."""
        sys.stderr.write(f"{text}\n")

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
        sys.stderr.write(f"{question} [y/N] ")
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
        from ..settings import Settings

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
        from ..sql import operating

        found = self.settings(self.url if given is None else given)
        with operating.engine(found.url, found.engine_options, create=create) as engine:
            yield engine

    @contextmanager
    def connection(self, given: str | None = None) -> Iterator[Connection]:
        """Yield a connection to a database whose schema fits."""
        from ..sql import operating

        with self.database(given) as engine, operating.connected(engine) as connection:
            operating.require_usable(connection)
            yield connection


#: For the subcommands that ask before they do something.
YES_FLAGS: Final[dict[str, Any]] = {
    name: ({"JupyterApp": {"answer_yes": True}}, "Do not ask.") for name in ("yes", "y")
}
#: For those that list.
JSON_FLAG: Final[dict[str, Any]] = {
    "json": ({"StoreCommand": {"as_json": True}}, "Print JSON instead of a table.")
}
