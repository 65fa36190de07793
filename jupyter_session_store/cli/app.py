"""The command itself: the table of its subcommands, and the start."""

# PYTHON_ARGCOMPLETE_OK: so argcomplete's global completion finds that it can be asked.

from __future__ import annotations

import io
import os
import sys
from typing import Any, Final

from .command_line import CommandLine, ExitCode, exit_with_usage_error, show_word, suggest

_PACKAGE: Final = "jupyter_session_store.cli"


class SessionStoreApp(CommandLine):
    """Imports the subcommand and starts it."""

    name = "jupyter-session-store"
    description = """
    Upgrade, inspect, clean up and move the database of jupyter_session_store.

    The database and how to reach it are read from jupyter_server_config.py and
    from the environment (JUPYTER_SESSION_STORE_URL), as the servers do, unless
    --url says otherwise. A subcommand's own help says more:
    `jupyter session-store upgrade --help`.

    Exit codes: 0 done, or nothing to do, or yes; 1 no, not found, not confirmed;
    2 wrong usage, setting or right; 3 the database, a server or the output is not
    available now; 4 the schema does not fit; 5 refused, since a server is alive;
    6 the file of the database is not there; 130 interrupted; 141 the reader
    closed the pipe.
    """
    examples = """
    jupyter session-store check                       # does the schema fit?
    jupyter session-store upgrade                     # bring it to the newest
    jupyter session-store upgrade --url env:DB_URL    # another database
    jupyter session-store list --json                 # every session
    jupyter session-store prune --older-than 30d      # clean up
    """
    flags: Any = {}
    aliases: Any = {}
    subcommands: Any = {
        "upgrade": (f"{_PACKAGE}.upgrade.Upgrade", "Bring the schema to the newest revision."),
        "downgrade": (f"{_PACKAGE}.downgrade.Downgrade", "Take the schema back to a revision."),
        "current": (f"{_PACKAGE}.current.Current", "Show which revision the database is at."),
        "history": (f"{_PACKAGE}.history.History", "Show the revisions that there are."),
        "check": (f"{_PACKAGE}.check.Check", "Say by the exit code whether the schema fits."),
        "doctor": (f"{_PACKAGE}.doctor.Doctor", "Examine the database and the way to it."),
        "wall": (f"{_PACKAGE}.wall.Wall", "Keep the users of one PostgreSQL apart."),
        "list": (f"{_PACKAGE}.list.List", "List sessions."),
        "show": (f"{_PACKAGE}.show.Show", "Show all that is stored of a session."),
        "servers": (f"{_PACKAGE}.servers.Servers", "List the registered servers."),
        "namespaces": (f"{_PACKAGE}.namespaces.Namespaces", "List the namespaces."),
        "stats": (f"{_PACKAGE}.stats.Stats", "Count what the database holds."),
        "serve": (f"{_PACKAGE}.serve.Serve", "Serve a page that shows who runs what where."),
        "kernels": (f"{_PACKAGE}.kernels.Kernels", "List or end kernels that outlive servers."),
        "prune": (f"{_PACKAGE}.prune.Prune", "Remove sessions that nobody needs."),
        "purge": (f"{_PACKAGE}.purge.Purge", "Remove all of some namespaces."),
        "remove": (f"{_PACKAGE}.remove.Remove", "Remove single sessions."),
        "rename": (f"{_PACKAGE}.rename.Rename", "Give namespaces other names."),
        "copy": (f"{_PACKAGE}.copy.Copy", "Copy everything to another database."),
        "import": (f"{_PACKAGE}.import_.Import", "Take over a stock manager's SQLite file."),
    }

    def start(self) -> None:
        """Start the subcommand; without one, print the help."""
        super().start()
        if self.extra_args:
            word, names = self.extra_args[0], self.subcommands
            expected = suggest(word, names, cutoff=0.65) or f"expected one of {', '.join(names)}."
            exit_with_usage_error(
                f"There is no subcommand {show_word(word)}; {expected} See: {self.typed} --help"
            )
        self.print_help()
        sys.exit(ExitCode.WRONG_USAGE)


def main() -> None:
    """Run ``jupyter session-store``."""
    _open_streams()
    try:
        if "_ARGCOMPLETE" in os.environ:
            from .completion import complete

            places = (place for place, _ in SessionStoreApp.subcommands.values())
            complete(SessionStoreApp, places)
        SessionStoreApp.launch_instance()
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Nothing was changed.\n")
        sys.exit(ExitCode.INTERRUPTED)


def _open_streams() -> None:
    """Replace closed standard streams, and escape characters that a stream cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # A database's file would get the number of the closed stream, and be written to.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
