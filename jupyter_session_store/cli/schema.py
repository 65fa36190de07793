"""What upgrade, downgrade, current and check share: the state of the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitlets import Bool

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


class MigrationCommand(StoreCommand):
    """What upgrade and downgrade share."""

    interrupt_message: str = (
        "The revision that was being run is undone; on MySQL and MariaDB, whose schema changes "
        "cannot be, run the same command again."
    )

    dry_run = Bool(False, help="Say what would be run, and change nothing.").tag(config=True)
    sql = Bool(False, help="Print the SQL statements, and change nothing.").tag(config=True)

    def print_script(self, start: str | None, target: str, *, downgrade: bool = False) -> ExitCode:
        """Print the SQL statements from one revision to another."""
        from ..sql.schema import migrating

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
