"""What upgrade, downgrade, current and check share: the state of the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from traitlets import Bool

from ..errors import ConfigurationError
from .command import ExitCode, StoreCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine

    from ..sql.schema.migrating import Revision
    from ..sql.schema.versions import Status


def schema_status(engine: Engine) -> Status:
    """Return the revision that a database is at, and whether it fits this code."""
    from ..sql.admin import admin_connection
    from ..sql.schema import versions

    with admin_connection.connected(engine) as connection:
        return versions.status(connection)


#: Said of Ctrl-C once a migration has begun.
_INTERRUPTED: Final = (
    "The revision that was being run is undone, those before it stay; on MySQL and MariaDB, whose "
    "schema changes cannot be undone, run the same command again. To see where it is, run: "
    "jupyter session-store current"
)


#: For subcommands that take the migration lock.
POOLER_FLAG: Final[dict[str, Any]] = {
    "through-pooler": (
        {"MigrationCommand": {"through_pooler": True}},
        "Go on though a pooler in transaction mode, such as PgBouncer, is in between, through "
        "which the migration lock does not hold: only if nothing else upgrades meanwhile.",
    )
}


class MigrationCommand(StoreCommand):
    """What upgrade and downgrade share."""

    dry_run = Bool(False, help="Say what would be run, and change nothing.").tag(config=True)
    through_pooler = Bool(
        False, help="Go on though a pooler in between keeps the lock of migrations from holding."
    ).tag(config=True)
    sql = Bool(False, help="Print the SQL statements, and change nothing.").tag(config=True)

    def print_script(self, start: str | None, target: str, *, downgrade: bool = False) -> ExitCode:
        """Print the SQL statements from one revision to another."""
        from ..sql.schema import migrating

        if self.as_json:
            raise ConfigurationError(
                "Found --sql with --json; expected one of them. Nothing was changed."
            )
        settings = self.settings()
        self.output.text(
            migrating.sql_script(settings.url, start, target, downgrade=downgrade).rstrip()
        )
        return ExitCode.DONE

    def print_plan(self, plan: Sequence[Revision], verb: str) -> None:
        """Print the revisions to run or to undo, in this order."""
        database = self.database_name
        found = f"{database}: {len(plan)} revision{'s' if len(plan) != 1 else ''} to {verb}"
        self.output.text(found if plan else f"{database}: nothing to {verb}.")
        for revision in plan:
            self.output.text(f"  {revision.id}  {revision.kind:<11}  {revision.title}")

    def begin(self) -> None:
        """Say of Ctrl-C from now on that something was changed."""
        self.interrupt_message = _INTERRUPTED

    def report(
        self, plan: Sequence[Revision], before: str | None, after: str | None, **more: Any
    ) -> ExitCode:
        """Say at which revision the database is, with ``--json`` what was done, and `more`."""
        if self.as_json:
            self.output.one(
                {
                    "database": self.database_name,
                    "dry_run": self.dry_run,
                    "revisions": [revision.id for revision in plan],
                    "from": before,
                    "revision": after,
                    **more,
                }
            )
        elif plan and not self.dry_run:
            self.output.text(f"Done: {self.database_name} is at revision {after or 'base'}.")
        return ExitCode.DONE
