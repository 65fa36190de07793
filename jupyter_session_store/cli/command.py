"""What all subcommands share: settings, the database, questions, errors."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

from jupyter_core.application import base_aliases, base_flags
from traitlets import Bool, TraitError

from ..config import SECTIONS
from ..config.database import SecretText
from ..config.secrets import hide_secrets
from ..errors import (
    ConfigurationError,
    DatabaseFileMissing,
    RightMissing,
    SchemaMismatch,
    SessionStoreError,
    StoreUnavailable,
    StoreUnusable,
)
from ..locations import without_credentials
from .command_line import (
    CommandLine,
    ExitCode,
    exit_with_usage_error,
    print_error,
    show_word,
)
from .help import options_of
from .output import Output, OutputError, discard_output, escape_controls, flush

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from ..config.settings import Settings

__all__ = ["JSON_FLAG", "YES_FLAGS", "ExitCode", "StoreCommand", "exit_code_of"]

_EXIT_CODES: Final = (
    (RightMissing, ExitCode.WRONG_USAGE),
    (StoreUnusable, ExitCode.WRONG_USAGE),
    (StoreUnavailable, ExitCode.UNAVAILABLE),
    (DatabaseFileMissing, ExitCode.MISSING_FILE),
    (SchemaMismatch, ExitCode.SCHEMA_MISMATCH),
    ((SessionStoreError, TraitError), ExitCode.WRONG_USAGE),
)
#: A command in a text, without options that may say which database.
_ADVISED_COMMAND: Final = re.compile(r"\bjupyter session-store [a-z]+\b(?! --(?!apply\b))")
#: For subcommands that ask for confirmation.
YES_FLAGS: Final[dict[str, Any]] = {
    name: ({"JupyterApp": {"answer_yes": True}}, "Do not ask.") for name in ("yes", "y")
}
#: For subcommands that list.
JSON_FLAG: Final[dict[str, Any]] = {
    "json": ({"StoreCommand": {"as_json": True}}, "Print JSON instead of text.")
}


class StoreCommand(CommandLine):
    """A subcommand. Its `run` returns an exit code, or raises an error of the package."""

    config_file_name = "jupyter_server_config"
    raise_config_file_errors = True
    aliases: Any = {
        "config": base_aliases["config"],
        "log-level": base_aliases["log-level"],
        "url": "StoreCommand.url",
    }
    flags: Any = {"debug": (base_flags["debug"][0], "Log everything.")}
    #: Printed when Ctrl-C ends the subcommand.
    interrupt_message: str = "Nothing was changed."

    #: Whether it only reads sessions and servers, and so is for stores that are no databases, too.
    only_reads: ClassVar[bool] = False

    url = SecretText(
        help="""
        Another database than the configured one: env:NAME (an environment
        variable that holds the URL), file:PATH (a file that does), or a URL or
        path without a password. Its engine options are the configured ones.
        """
    ).tag(config=True)

    as_json = Bool(False, help="Print JSON.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings: dict[str, Settings] = {}

    def initialize(self, argv: Any = None) -> None:
        """Read the command line and the configuration files."""
        hide_secrets()
        try:
            super().initialize(argv)
            self._refuse_empty_settings()
        except KeyboardInterrupt:
            sys.exit(_report_interrupt("Nothing was changed."))
        except Exception as error:
            # A configuration file is a program: it may raise any error.
            exit_with_usage_error(
                f"The configuration cannot be read: {self._describe(error)}. Run: "
                "jupyter --paths (it lists the folders of the configuration files)"
            )

    def _describe(self, error: Exception) -> str:
        """Return what a configuration file has raised, and where; never a value."""
        names = (f"{self.config_file_name}.py", os.path.basename(self.config_file or ""))
        frames = traceback.extract_tb(error.__traceback__)
        lines = [one.lineno for one in frames if os.path.basename(one.filename) in names]
        where = f" (line {lines[-1]})" if lines else ""
        repeats = isinstance(error, (TypeError, ValueError))
        if repeats and not isinstance(error, json.JSONDecodeError):
            return f"{type(error).__name__}{where}"
        return f"{type(error).__name__}: {error}{where}"

    def _refuse_empty_settings(self) -> None:
        """Refuse an empty option in a configuration file: it would select everything."""
        for section, found in self.config.items():
            kinds = (kind for kind in type(self).mro() if kind.__name__ == section)
            if not any(issubclass(kind, StoreCommand) for kind in kinds):
                continue
            for name, value in found.items():
                if value == "":
                    exit_with_usage_error(
                        f"c.{section}.{name} is empty; expected a value, or no such setting. "
                        "Nothing was changed."
                    )

    def parse_command_line(self, argv: Any = None) -> None:
        """Read the command line; the file of ``--config`` has to exist."""
        super().parse_command_line(argv)
        if self.config_file:
            stem = os.path.splitext(self.config_file)[0]
            if not any(os.path.isfile(f"{stem}{suffix}") for suffix in (".py", ".json")):
                exit_with_usage_error(
                    f"There is no file {self.config_file!r}; expected a configuration file for "
                    "--config. Nothing was changed."
                )

    def common_options(self) -> dict[str, str]:
        return options_of(StoreCommand)

    def accepts_setting(self, section: str, name: str) -> bool:
        """Return whether a setting is an option: those of the database are, too."""
        if section not in SECTIONS:
            return super().accepts_setting(section, name)
        from ..config.database import DatabaseSettings

        return name in DatabaseSettings.class_trait_names(config=True)

    def start(self) -> None:
        """Run the subcommand and exit with its code."""
        super().start()
        code = self._exit_code()
        try:
            flush()
        except (BrokenPipeError, OutputError):
            discard_output()
        sys.exit(code)

    def _exit_code(self) -> ExitCode:
        try:
            self._check_arguments()
            code = self.run()
            flush()
        except KeyboardInterrupt:
            return _report_interrupt(self.interrupt_message)
        except BrokenPipeError:
            discard_output()
            return ExitCode.BROKEN_PIPE
        except OutputError as error:
            discard_output()
            print_error(str(error))
            return ExitCode.UNAVAILABLE
        except OSError as error:
            return _report_os_error(error)
        except (SessionStoreError, TraitError) as error:
            print_error(self.add_url_to_commands(str(error)))
            return exit_code_of(error)
        return code

    def _check_arguments(self) -> None:
        given, names = self.extra_args, list(self.arguments)
        unlimited = bool(names) and names[-1].endswith("...")
        enough = len(given) >= len(names) - self.optional_arguments
        if enough and (unlimited or len(given) <= len(names)):
            return
        found = f"the argument{'s' * (len(given) > 1)} {', '.join(map(show_word, given))}"
        raise ConfigurationError(
            f"Found {found if given else 'no argument'}; expected {' '.join(names) or 'none'}. "
            f"Nothing was changed. See: {self._help}"
        )

    def add_url_to_commands(self, text: str, given: str | None = None) -> str:
        """Add ``--url`` to the commands that a text advises, with `given` or this run's value."""
        url = self.url if given is None else given
        if not url:
            return text
        return _ADVISED_COMMAND.sub(lambda found: f"{found[0]} --url {shlex.quote(url)}", text)

    def run(self) -> ExitCode:
        """Do what the subcommand is for."""
        raise NotImplementedError

    @property
    def output(self) -> Output:
        """The writer of results."""
        return Output(self.as_json)

    def note(self, text: str) -> None:
        """Print to standard error a text that is not a result."""
        sys.stderr.write(f"{escape_controls(without_credentials(text))}\n")

    def confirm(self, question: str) -> bool:
        """Ask for confirmation; with ``--yes`` it is given, without a terminal an error."""
        if self.answer_yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"{question} There is no terminal to ask at; expected --yes. Nothing was changed."
            )
        sys.stderr.write(f"{escape_controls(question)} [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return True
        self.note("Nothing was changed.")
        return False

    def require_answer(self) -> None:
        """Fail before the work is done if :meth:`confirm` would fail after it."""
        if not self.answer_yes and not sys.stdin.isatty():
            raise ConfigurationError(
                "This asks before it removes anything, and there is no terminal to ask at; "
                "expected --yes, or --dry-run to see what it would remove. Nothing was changed."
            )

    def settings(self, given: str | None = None) -> Settings:
        """Return the settings of the database that `given`, by default ``--url``, names."""
        from ..config.settings import Settings
        from .other_stores import refuse_other_repository

        given = self.url if given is None else given
        if given not in self._settings:
            if not given:
                refuse_other_repository(self)
            # Once: a file may be a pipe.
            source = {"source": "--url"} if given == self.url else {}
            self._settings[given] = (
                Settings.from_argument(given, self.config, **source)
                if given
                else Settings.from_config(self.config)
            )
        return self._settings[given]

    @property
    def database_name(self) -> str:
        """The name of the database for texts: ``postgresql jupyter@db:5432/jupyter``."""
        return self.describe_database()

    def describe_database(self, given: str | None = None) -> str:
        """Return the name of the database that `given`, by default ``--url``, names."""
        from ..sql.engine.url import describe, parse
        from .other_stores import name_of_store

        if self.only_reads and given is None and (name := name_of_store(self)) is not None:
            return name
        return describe(parse(self.settings(given).url))

    def missing_file(self, given: str | None = None) -> Path | None:
        """Return the file of a SQLite database if it does not exist."""
        from ..sql.engine.url import parse, sqlite_file

        file = sqlite_file(parse(self.settings(given).url))
        return None if file is None or file.exists() else file

    def database(self, given: str | None = None, **options: bool) -> AbstractContextManager[Engine]:
        """Return :func:`.admin_connection.engine`, by default for the value of ``--url``."""
        from ..sql.admin import admin_connection

        found = self.settings(given)
        return admin_connection.engine(
            found.url, found.engine_options, source=found.source, **options
        )

    @contextmanager
    def connection(self, given: str | None = None, **options: bool) -> Iterator[Connection]:
        """Yield a connection to the database; its schema has to fit.

        If another repository is configured, a command that only reads gets a copy of its contents.
        """
        from ..sql.admin.admin_connection import connected
        from .other_stores import read_contents

        if self.only_reads and (contents := read_contents(self)) is not None:
            from ..sql.admin import snapshot

            with snapshot.connected(contents) as connection:
                yield connection
            return
        with self.database(given, **options) as engine, connected(engine) as connection:
            self.require_usable(connection, given)
            yield connection

    def require_usable(self, connection: Connection, given: str | None) -> None:
        """Refuse a schema that does not fit; the error names the database as `given`."""
        from ..sql.admin import admin_connection

        try:
            admin_connection.require_usable(connection)
        except SchemaMismatch as error:
            raise type(error)(self.add_url_to_commands(str(error), given)) from error


def exit_code_of(error: SessionStoreError | TraitError) -> ExitCode:
    """Return what a subcommand ends with that has raised an error."""
    return next(code for kinds, code in _EXIT_CODES if isinstance(error, kinds))


def _report_interrupt(text: str) -> ExitCode:
    sys.stderr.write(f"\nInterrupted. {text}\n")
    return ExitCode.INTERRUPTED


def _report_os_error(error: OSError) -> ExitCode:
    """Print an error of the operating system."""
    reason = f"{type(error).__name__}: {error.strerror}"
    if error.filename is None:
        print_error(f"The operating system has refused something: {reason}.")
        return ExitCode.UNAVAILABLE
    print_error(f"{str(error.filename)!r} cannot be used: {reason}.")
    return ExitCode.WRONG_USAGE
