"""Bring the schema to the newest revision, or to the one that is named."""

from __future__ import annotations

from ..errors import SchemaMismatch
from .command import JSON_FLAG, ExitCode, StoreCommand
from .schema import POOLER_FLAG, MigrationCommand, schema_status


class Upgrade(MigrationCommand):
    name = "jupyter-session-store upgrade"
    description = """
    Bring the schema to the newest revision, or to the one that is named.

    Any number of these may run at once: one takes the migration lock, the
    others wait and find nothing to do. A SQLite file is backed up first,
    beside itself. Servers go on working while an expanding revision is run;
    `history` says which are contracting.
    """
    examples = """
    jupyter session-store upgrade
    jupyter session-store upgrade --dry-run
    jupyter session-store upgrade --sql > upgrade.sql      # for an administrator
    jupyter session-store upgrade --url env:DB_URL
    """
    arguments = {
        "REVISION": "An id, +1 for one step, or head, the default; with --sql also START:REVISION."
    }
    optional_arguments = 1
    flags = {
        **StoreCommand.flags,
        **JSON_FLAG,
        "dry-run": ({"Upgrade": {"dry_run": True}}, "Say what would be run, and change nothing."),
        **POOLER_FLAG,
        "sql": (
            {"Upgrade": {"sql": True}},
            "Print the SQL statements for a database without tables, and change nothing. "
            "START:REVISION begins at another revision.",
        ),
    }

    def run(self) -> ExitCode:
        from ..sql.schema import migrating, versions

        target = self.extra_args[0] if self.extra_args else "head"
        if self.sql:
            start, _, end = target.rpartition(":")
            return self.print_script(start or None, end)
        if self.dry_run and self.missing_file() is not None:
            self.output.text(f"The database ({self.database_name}) is not there: it would be made.")
            plan = migrating.upgrade_plan(None, target)
            self.print_plan(plan, "run")
            return self.report(plan, None, None)
        with self.database(create=True) as engine:
            found = schema_status(engine)
            states = versions.State
            bare = found.state is states.DAMAGED and found.is_bare
            if not bare and found.state not in (states.EMPTY, states.BEHIND, states.CURRENT):
                explanation = versions.explain(found, self.database_name)
                if not found.usable:
                    raise SchemaMismatch(explanation)
                self.output.text(explanation)
                return self.report([], found.revision, found.revision)
            plan = migrating.upgrade_plan(None if bare else found.revision, target)
            self.print_plan(plan, "run")
            if plan and not self.dry_run:
                self.begin()
                # The id, since another process may upgrade meanwhile: +1 would then go too far.
                migrating.upgrade(
                    engine,
                    plan[-1].id,
                    from_nothing=bare,
                    through_pooler=self.through_pooler,
                    log=self.log,
                )
                return self.report(plan, found.revision, schema_status(engine).revision)
            return self.report(plan, found.revision, found.revision)
