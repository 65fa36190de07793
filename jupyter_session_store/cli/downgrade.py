"""Take the schema back to a revision."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import ConfigurationError, SchemaMismatch
from .command import JSON_FLAG, YES_FLAGS, ExitCode, StoreCommand
from .schema import POOLER_FLAG, MigrationCommand, schema_status


class Downgrade(MigrationCommand):
    name = "jupyter-session-store downgrade"
    description = """
    Take the schema back to a revision: an id, -1 for one step, or base for no
    tables at all.

    Asks before it begins, and says what data is lost. Where there is no terminal
    to ask at, it is refused without --yes if it would lose data. A SQLite file
    is backed up first, beside itself. Stop the servers of the newer release
    before.
    """
    examples = """
    jupyter session-store downgrade 0001
    jupyter session-store downgrade -1 --dry-run
    jupyter session-store downgrade base --yes     # drops every session
    """
    arguments = {
        "REVISION": "An id, -1 for one step, or base: no tables; with --sql START:REVISION."
    }
    flags = {
        **StoreCommand.flags,
        **YES_FLAGS,
        **JSON_FLAG,
        "dry-run": (
            {"Downgrade": {"dry_run": True}},
            "Say what would be undone and lost, and change nothing.",
        ),
        **POOLER_FLAG,
        "sql": (
            {"Downgrade": {"sql": True}},
            "Print the SQL statements, from START:REVISION, and change nothing.",
        ),
    }

    def parse_command_line(self, argv: Any = None) -> None:
        """Read the command line: ``-1`` is a revision, not an option."""
        steps = [one for one in argv or () if one[:1] == "-" and one[1:].isdigit()]
        super().parse_command_line([one for one in argv or () if one not in steps])
        self.extra_args = [*self.extra_args, *steps]

    def run(self) -> ExitCode:
        from ..sql.admin.admin_connection import connected
        from ..sql.schema import migrating, rights, versions

        target = self.extra_args[0]
        if self.sql:
            start, _, end = target.rpartition(":")
            if not start:
                raise ConfigurationError(
                    f"Found {target!r} for --sql, which does not look at the database; expected "
                    f"START:REVISION, for example {versions.HEAD}:base."
                )
            return self.print_script(start, end, downgrade=True)
        with self.database() as engine:
            found = schema_status(engine)
            if found.state is versions.State.AHEAD_COMPATIBLE:
                raise SchemaMismatch(
                    f"The database ({self.database_name}) is at revision {found.revision}, "
                    "newer than this release, which does not know how to undo it; expected the "
                    "release that made it. Nothing was changed. Run there: jupyter session-store "
                    f"downgrade {target}"
                )
            states = versions.State
            # Nothing but the way to base is known of one that is damaged.
            damaged = found.state is states.DAMAGED and target == "base"
            if not damaged and found.state not in (states.BEHIND, states.CURRENT):
                raise SchemaMismatch(versions.explain(found, self.database_name))
            plan = migrating.downgrade_plan(found.revision, target)
            self.print_plan(plan, "undo")
            lost = [revision for revision in plan if revision.downgrade_loses]
            loses = [revision.downgrade_loses for revision in lost]
            with connected(engine) as connection:
                for line in rights.losses(connection, plan):
                    self.output.text(line)
            if self.dry_run or not plan:
                return self.report(plan, found.revision, found.revision, loses=loses)
            losing = ", which loses data" if lost else ""
            if (lost or sys.stdin.isatty()) and not self.confirm(
                f"Undo {len(plan)} revision(s) of {self.database_name}{losing}?"
            ):
                return ExitCode.NO
            self.begin()
            end = plan[-1].previous or "base"
            migrating.downgrade(
                engine, end, planned=plan, through_pooler=self.through_pooler, log=self.log
            )
            after = schema_status(engine).revision
            return self.report(plan, found.revision, after, loses=loses)
