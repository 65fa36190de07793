"""The subcommands that fill a database from elsewhere: copy, import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from traitlets import Bool, Unicode

from ..errors import ConfigurationError, SchemaMismatch, StoreUnavailable
from ..records import Scope, check_namespace
from .command import JSON_FLAG, ExitCode, StoreCommand

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Connection

    from ..config.settings import Settings
    from ..sql.admin.bulk_insert import Counts

__all__ = ["Copy", "Import"]

_GOES_ON: Final = "What was copied until then stays; run the same command again to go on."


class TransferCommand(StoreCommand):
    """What the two share: the database that is filled, and what is said of it."""

    flags: Any = {
        **StoreCommand.flags,
        "json": (JSON_FLAG["json"][0], "Print the counts as JSON."),
        "dry-run": (
            {"TransferCommand": {"dry_run": True}},
            "Look and count, and change nothing.",
        ),
    }
    if_interrupted: str = _GOES_ON

    dry_run = Bool(False, help="Look and count, and change nothing.").tag(config=True)

    @contextmanager
    def readable(self, given: str) -> Iterator[Connection]:
        """Yield a connection to a database whose schema fits, named as `given`."""
        from ..sql.admin import admin_connection

        file = self._file_without_database(given)
        if file is not None:
            raise ConfigurationError(
                f"There is no file {str(file)!r} to copy from; expected the database that the "
                "servers have used: --from, or c.SessionManager.database_filepath."
            )
        found = self.settings(given)
        with (
            admin_connection.engine(found.url, found.engine_options, writes=False) as engine,
            admin_connection.connected(engine) as connection,
        ):
            self._require_usable(connection, given)
            yield connection

    @contextmanager
    def writable(self, given: str) -> Iterator[Connection | None]:
        """Yield a connection to a database whose schema fits; one without tables gets them.

        In a dry run it gets none, and ``None`` is yielded.
        """
        from ..sql.admin import admin_connection
        from ..sql.schema import compatibility, migrating

        if self.dry_run and self._file_without_database(given) is not None:
            yield None
            return
        with self.database(given, create=True) as engine:
            with admin_connection.connected(engine) as connection:
                empty = compatibility.status(connection).state is compatibility.State.EMPTY
            if empty and self.dry_run:
                yield None
                return
            if empty:
                migrating.upgrade(engine, log=self.log)
            with _going_on(), admin_connection.connected(engine) as connection:
                self._require_usable(connection, given)
                yield connection

    def _require_usable(self, connection: Connection, given: str) -> None:
        from ..sql.admin import admin_connection

        try:
            admin_connection.require_usable(connection)
        except SchemaMismatch as error:
            # There may be two databases, of which it is one.
            raise SchemaMismatch(self.cured(str(error), given)) from error

    def _file_without_database(self, given: str) -> Path | None:
        from ..sql.engine.factory import parse, sqlite_file

        file = sqlite_file(parse(self.settings(given).url))
        return None if file is None or file.exists() else file

    def described(self, given: str) -> str:
        """Return what may be shown of a database."""
        from ..sql.engine.factory import describe, parse

        return describe(parse(self.settings(given).url))

    def tell(self, counts: Counts) -> None:
        """Say what somebody may wonder about."""
        if counts.different:
            self.note(
                f"{counts.different} sessions are there already, and are not as they were read: "
                "they were left as they are."
            )
        if counts.without_claim:
            self.note(
                f"{counts.without_claim} sessions came without the claim to their path, which "
                "another session holds there."
            )

    def verdict(self, verified: int, missing: int, what: str) -> ExitCode:
        """Say whether everything is there."""
        if missing:
            self.note(
                f"Of {verified} {what}, {missing} are not there: they were left out, or came or "
                "went meanwhile. Run the same command again; it adds what is missing."
            )
            return ExitCode.NO
        self.output.text(f"Verified: all {verified} {what} are there.")
        return ExitCode.DONE


@contextmanager
def _going_on() -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        raise type(error)(f"{error.reason}.\n{_GOES_ON}") from error


@contextmanager
def _progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Yield what is told of each batch; a terminal is shown a bar."""
    if not sys.stderr.isatty():
        yield lambda _number: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda number: bar.advance(task, number)


class Copy(TransferCommand):
    """Copy everything to another database."""

    name = "jupyter-session-store copy"
    description = """
    Copy all sessions, server registrations and what is known of a stock
    manager's table from one database to another: from SQLite to PostgreSQL or
    MariaDB, for example, or back. A database without tables gets them.

    It only adds. What is there already, by its namespace and id, stays as it
    is, and is counted; so it can be run again, and goes on where it was cut
    off. A session whose path another session holds in the target comes without
    its claim. The source is only read, and nobody waits for that.

    Stop the servers of the source first: a session that changes after it was
    read is not read again. Or run it once more when they have stopped: new
    sessions come, changed ones are counted as different.

    At the end every key that the source has is looked for in the target: the
    exit code is 1 if one is missing.
    """
    examples = """
    jupyter session-store copy --to env:DB_URL                # from the configured database
    jupyter session-store copy --to env:DB_URL --dry-run
    jupyter session-store copy --from sessions.db --to file:/run/secrets/url
    jupyter session-store copy --from env:DB_URL --to backup.db --json
    """
    aliases: Any = {
        "config": StoreCommand.aliases["config"],
        "log-level": StoreCommand.aliases["log-level"],
        "from": "Copy.source",
        "to": "Copy.target",
    }

    source = Unicode(
        help="""
        The database that is read: env:NAME (an environment variable that holds
        the URL), file:PATH (a file that does), or a URL or path without a
        password. By default the configured one.
        """
    ).tag(config=True)
    target = Unicode(help="The database that is added to, named in the same way.").tag(config=True)

    def settings(self, given: str = "") -> Settings:
        """Return which database, and how to reach it.

        The engine options are those of the configured database, and of no use to
        another driver.
        """
        from ..sql.engine.factory import parse

        found = super().settings(given)
        if given and found.engine_options:
            configured = parse(super().settings().url)
            if parse(found.url).get_driver_name() != configured.get_driver_name():
                return type(found)(found.url)
        return found

    def run(self) -> ExitCode:
        """Copy."""
        if not self.target:
            raise ConfigurationError(
                "Found no --to; expected the database to copy to: env:NAME, file:PATH, or a URL "
                "or path without a password."
            )
        with self.readable(self.source) as source, self.writable(self.target) as target:
            return self._copy(source, target)

    def _copy(self, source: Connection, target: Connection | None) -> ExitCode:
        from ..sql.admin import copying
        from ..sql.admin.bulk_insert import Counts

        if target is not None and copying.is_same(source, target):
            raise ConfigurationError(
                f"--from and --to lead to the same database ({self.described(self.target)}); "
                "expected two."
            )
        where = {"from": self.described(self.source), "to": self.described(self.target)}
        sessions, servers = copying.count(source)
        self.output.text(
            f"{'Would copy' if self.dry_run else 'Copying'} {sessions} sessions and {servers} "
            f"servers from {where['from']} to {where['to']}."
        )
        if target is None:
            self.output.text("Would make the tables there.")
            copied, registered = (
                Counts(sessions, sessions),
                Counts(servers, servers),
            )
        else:
            with _progress(sessions, "copied") as advance:
                copied, registered = copying.copy(
                    source, target, advance=advance, tell=self.note, dry_run=self.dry_run
                )
        values = {
            **where,
            **_shown(copied, "copied"),
            **{
                f"servers_{name}": value
                for name, value in _shown(registered, "copied").items()
                if name in ("read", "copied", "there_already", "different")
            },
        }
        if target is None or self.dry_run:
            self.output.one({**values, "dry_run": True})
            self.tell(copied)
            return ExitCode.DONE
        with _progress(sessions, "verified") as advance:
            found = copying.verify(source, target, advance=advance)
        self.output.one({**values, "verified": found.keys, "missing": found.missing})
        self.tell(copied)
        return self.verdict(found.keys, found.missing, "sessions and servers")


class Import(TransferCommand):
    """Take over a stock manager's SQLite file."""

    name = "jupyter-session-store import"
    description = """
    Copy the sessions of a SQLite file that Jupyter Server's own session manager
    has made into the configured database, or that of --url, for a namespace.
    A database without tables gets them.

    Only sessions whose kernels run on a gateway: those of a server's own
    kernels have ended with that server. The gateway is the configured one,
    unless --gateway names another.

    The file is only read; stop the server that uses it first. What is no
    session (without an id or a kernel, doubled, or not text) is left out, and
    counted. It only adds, and can be run again: what is there already stays as
    it is. At the end every session of the file is looked for: the exit code is
    1 if one is missing.
    """
    examples = """
    jupyter session-store import sessions.db --namespace hub:alice/
    jupyter session-store import sessions.db --namespace hub:alice/ --dry-run
    jupyter session-store import sessions.db --namespace dir:/home/bob \\
        --gateway https://gateway.example.org --url env:DB_URL
    """
    arguments = ("FILE",)
    aliases: Any = {
        **StoreCommand.aliases,
        "namespace": "Import.namespace",
        "gateway": "Import.gateway",
    }

    namespace = Unicode(
        help="""
        Whose sessions these are to be; required. By default a server's is
        hub:USER/SERVER under JupyterHub, else dir: and its root directory.
        """
    ).tag(config=True)
    gateway = Unicode(
        help="""
        The gateway that has the kernels: its URL, without a password, or what
        c.PersistentSessionManager.gateway_name says. By default that of this
        configuration.
        """
    ).tag(config=True)

    def reads(self, section: str, name: str) -> bool:
        """Return whether a setting may be given: those that say which gateway may, too."""
        if section == "GatewayClient":
            from .gateways import is_setting

            return is_setting(name)
        if name == "gateway_name":
            return section in ("PersistentSessionManager", "SessionManager")
        return super().reads(section, name)

    def run(self) -> ExitCode:
        """Import."""
        from ..kernels.gateway.naming import gateway_authority_of
        from ..sql.admin import importing
        from .gateways import gateway_name

        if not self.namespace:
            raise ConfigurationError(
                "Found no --namespace; expected that of the servers which are to show the "
                "sessions, as it stands in: jupyter session-store servers"
            )
        check_namespace(self.namespace)
        scope = Scope(self.namespace, gateway_authority_of(gateway_name(self.gateway, self.config)))
        file = Path(self.extra_args[0])
        self._refuse_itself(file)
        with importing.opened(file) as raw, self.writable(self.url) as target:
            return self._import(raw, file, scope, target)

    def _refuse_itself(self, file: Path) -> None:
        from ..sql.engine.factory import parse, sqlite_file

        target = sqlite_file(parse(self.settings(self.url).url))
        if target is not None and target.exists() and file.exists() and target.samefile(file):
            raise ConfigurationError(
                f"The file {str(file)!r} is the database that its sessions would be imported into; "
                "expected another, or nothing to do: the first server that uses it takes them over."
            )

    def _import(
        self, raw: sqlite3.Connection, file: Path, scope: Scope, target: Connection | None
    ) -> ExitCode:
        from ..sql.admin import importing

        where = {"from": f"stock file {str(file)!r}", "to": self.described(self.url)}
        expected = importing.count(raw, scope)
        self.output.text(
            f"{'Would import' if self.dry_run else 'Importing'} {expected.added} sessions from the "
            f"{where['from']} to {where['to']}, for the namespace {scope.namespace!r} and the "
            f"authority {scope.authority!r}."
        )
        if target is None:
            self.output.text("Would make the tables there.")
            imported = expected
        else:
            with _progress(expected.read, "imported") as advance:
                imported = importing.take_over(
                    raw, target, scope, advance=advance, tell=self.note, dry_run=self.dry_run
                )
        values = {**where, **_shown(imported, "imported")}
        if target is None or self.dry_run:
            self.output.one({**values, "dry_run": True})
            self.tell(imported)
            return ExitCode.DONE
        missing = importing.missing(raw, target, scope)
        self.output.one({**values, "verified": expected.added, "missing": missing})
        self.tell(imported)
        return self.verdict(expected.added, missing, "sessions")


def _shown(counts: Counts, added: str) -> dict[str, int]:
    return {added if name == "added" else name: value for name, value in asdict(counts).items()}
