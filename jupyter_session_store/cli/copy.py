"""Copy everything to another database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitlets import Unicode

from ..errors import ConfigurationError, DatabaseFileMissing
from .command import ExitCode, StoreCommand
from .transfer import TransferCommand, count_fields, progress

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    from ..config.settings import Settings


class Copy(TransferCommand):
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
    jupyter session-store copy --to env:DB_URL          # from the configured one
    jupyter session-store copy --to env:DB_URL --dry-run
    jupyter session-store copy --from sessions.db --to file:/run/secrets/url
    jupyter session-store copy --from env:DB_URL --to backup.db --json
    """
    aliases = {
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

    def settings(self, given: str | None = None) -> Settings:
        """Return the settings of a database; another driver gets no engine options."""
        from ..sql.engine.url import parse

        found = super().settings(given)
        if given and found.engine_options:
            configured = parse(super().settings().url)
            if parse(found.url).get_driver_name() != configured.get_driver_name():
                return type(found)(found.url, source=found.source)
        return found

    def run(self) -> ExitCode:
        if not self.target:
            raise ConfigurationError(
                "Found no --to; expected the database to copy to: env:NAME, file:PATH, or a URL "
                "or path without a password."
            )
        with self._open_source() as source, self.open_target(self.target) as target:
            return self._copy(source, target)

    def _open_source(self) -> AbstractContextManager[Connection]:
        """Return a connection to the source, whose schema fits."""
        file = self.missing_file(self.source)
        if file is not None:
            raise DatabaseFileMissing(
                f"There is no file {str(file)!r} to copy from; expected the database that the "
                "servers have used: --from, or c.SessionManager.database_filepath."
            )
        return self.connection(self.source, writes=False)

    def _copy(self, source: Connection, target: Connection | None) -> ExitCode:
        from ..sql.admin import copying, walling
        from ..sql.admin.bulk_insert import Counts

        if target is not None and copying.is_same(source, target):
            raise ConfigurationError(
                "--from and --to lead to the same database "
                f"({self.describe_database(self.target)}); expected two."
            )
        where = {
            "from": self.describe_database(self.source),
            "to": self.describe_database(self.target),
        }
        if walling.is_confined(source):
            self.note(
                f"The role of {where['from']} is behind a wall: it sees its own namespaces, and no "
                "others are copied. The owner of the tables sees all."
            )
        sessions, servers = copying.count(source)
        self.output.text(
            f"{'Would copy' if self.dry_run else 'Copying'} {sessions} sessions and {servers} "
            f"servers from {where['from']} to {where['to']}."
        )
        if target is None:
            self.output.text("Would make the tables there.")
            copied, registered = Counts(sessions, sessions), Counts(servers, servers)
        else:
            with progress(sessions, "copied") as advance:
                copied, registered = copying.copy(
                    source, target, advance=advance, tell=self.note, dry_run=self.dry_run
                )
        values = {
            **where,
            **count_fields(copied, "copied"),
            **{
                f"servers_{name}": value
                for name, value in count_fields(registered, "copied").items()
                if name in ("read", "copied", "there_already", "different")
            },
        }
        if target is None or self.dry_run:
            return self.report_dry_run(values, copied)
        with progress(sessions, "verified") as advance:
            verified, missing = copying.verify(source, target, advance=advance)
        return self.report(values, copied, verified, missing, "sessions and servers")
