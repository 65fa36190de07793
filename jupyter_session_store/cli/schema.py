"""The subcommands that look at the schema and change it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Float

from ..errors import ConfigurationError, SchemaMismatch, StoreUnavailable
from .command import JSON_FLAG, ExitCode, StoreCommand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine

    from ..sql.schema.compatibility import Status
    from ..sql.schema.migrating import Revision

#: Seconds between two looks of ``check --wait``.
_POLL_SECONDS = 0.5


def _status(engine: Engine) -> Status:
    from ..sql.admin import admin_connection
    from ..sql.schema import compatibility

    with admin_connection.connected(engine) as connection:
        return compatibility.status(connection)


def _name(engine: Engine) -> str:
    from ..sql.engine.url import describe

    return describe(engine.url)


class _Look(StoreCommand):
    """What the subcommands share that look at the schema and change nothing."""

    @contextmanager
    def looking(self) -> Iterator[Engine]:
        """Yield the engine of the database, which is not waited for as an operator's work is."""
        from ..sql.admin import admin_connection

        found = self.settings(self.url)
        with admin_connection.engine(
            found.url, found.engine_options, statement_timeout=True, writes=False
        ) as engine:
            yield engine


class _Migration(StoreCommand):
    """What upgrade and downgrade share."""

    if_interrupted: str = (
        "The revision that was being run is undone; on MySQL and MariaDB, whose schema changes "
        "cannot be, run the same command again."
    )

    dry_run = Bool(False, help="Say what would be run, and change nothing.").tag(config=True)
    sql = Bool(False, help="Print the SQL statements, and change nothing.").tag(config=True)

    def _script(self, start: str | None, target: str, *, downgrade: bool = False) -> ExitCode:
        from ..sql.schema import migrating

        settings = self.settings(self.url)
        self.output.text(
            migrating.sql_script(settings.url, start, target, downgrade=downgrade).rstrip()
        )
        return ExitCode.DONE

    def _missing_file(self) -> str | None:
        from ..sql.engine.factory import check
        from ..sql.engine.url import describe, sqlite_file

        url = check(self.settings(self.url).url)
        file = sqlite_file(url)
        return None if file is None or file.exists() else describe(url)

    def _tell(self, plan: Sequence[Revision], database: str, verb: str) -> None:
        found = f"{database}: {len(plan)} revision{'s' if len(plan) != 1 else ''} to {verb}"
        self.output.text(found if plan else f"{database}: nothing to {verb}.")
        for revision in plan:
            self.output.text(f"  {revision.id}  {revision.kind:<11}  {revision.title}")


class Upgrade(_Migration):
    """Bring the schema to the newest revision, or to the one that is named."""

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
    jupyter session-store upgrade --sql > upgrade.sql    # for a database administrator
    jupyter session-store upgrade --url env:DB_URL
    """
    arguments = ("REVISION",)
    optional_arguments = 1
    flags: Any = {
        **StoreCommand.flags,
        "dry-run": ({"Upgrade": {"dry_run": True}}, "Say what would be run, and change nothing."),
        "sql": (
            {"Upgrade": {"sql": True}},
            "Print the SQL statements for a database without tables, and change nothing. "
            "START:REVISION begins at another revision.",
        ),
    }

    def run(self) -> ExitCode:
        """Upgrade."""
        from ..sql.admin import admin_connection
        from ..sql.schema import compatibility, migrating

        target = self.extra_args[0] if self.extra_args else "head"
        if self.sql:
            start, _, end = target.rpartition(":")
            return self._script(start or None, end)
        if self.dry_run and (missing := self._missing_file()):
            self.output.text(f"The {missing} is not there, and would be made.")
            self._tell(migrating.upgrade_plan(None, target), missing, "run")
            return ExitCode.DONE
        with self.database(create=True) as engine:
            found = _status(engine)
            if found.state not in (
                compatibility.State.EMPTY,
                compatibility.State.BEHIND,
                compatibility.State.CURRENT,
            ):
                if found.usable:
                    self.output.text(compatibility.explain(found, _name(engine)))
                    return ExitCode.DONE
                raise SchemaMismatch(compatibility.explain(found, _name(engine)))
            plan = migrating.upgrade_plan(found.revision, target)
            self._tell(plan, _name(engine), "run")
            if plan and not self.dry_run:
                # Not a number of steps, which would be counted from where the database is then.
                migrating.upgrade(engine, plan[-1].id, log=self.log)
                with admin_connection.connected(engine) as connection:
                    self.output.text(f"Done: revision {compatibility.status(connection).revision}.")
        return ExitCode.DONE


class Downgrade(_Migration):
    """Take the schema back to a revision."""

    name = "jupyter-session-store downgrade"
    description = """
    Take the schema back to a revision: an id, -1 for one step, or base for no
    tables at all.

    Refused without --yes where it would lose data. A SQLite file is backed up
    first, beside itself. Stop the servers of the newer release before.
    """
    examples = """
    jupyter session-store downgrade 0001
    jupyter session-store downgrade -1 --dry-run
    jupyter session-store downgrade base --yes       # drops the tables, and every session
    """
    arguments = ("REVISION",)
    flags: Any = {
        **StoreCommand.flags,
        **{
            name: ({"JupyterApp": {"answer_yes": True}}, "Go on though data is lost.")
            for name in ("yes", "y")
        },
        "dry-run": (
            {"Downgrade": {"dry_run": True}},
            "Say what would be undone and lost, and change nothing.",
        ),
        "sql": (
            {"Downgrade": {"sql": True}},
            "Print the SQL statements, from START:REVISION, and change nothing.",
        ),
    }

    def parse_command_line(self, argv: Any = None) -> None:
        """Read the command line, in which ``-1`` is a revision and no flag."""
        steps = [one for one in argv or () if one[:1] == "-" and one[1:].isdigit()]
        super().parse_command_line([one for one in argv or () if one not in steps])
        self.extra_args = [*self.extra_args, *steps]

    def run(self) -> ExitCode:
        """Downgrade."""
        from ..sql.schema import compatibility, migrating

        target = self.extra_args[0]
        if self.sql:
            start, _, end = target.rpartition(":")
            if not start:
                raise ConfigurationError(
                    f"Found {target!r} for --sql, which does not look at the database; expected "
                    "START:REVISION, for example 0001:base."
                )
            return self._script(start, end, downgrade=True)
        with self.database() as engine:
            found = _status(engine)
            if found.state is compatibility.State.AHEAD_COMPATIBLE:
                raise SchemaMismatch(
                    f"The database ({_name(engine)}) is at revision {found.revision}, newer than "
                    "this release, which does not know how to undo it; expected the release that "
                    "made it. Nothing was changed. Run there: jupyter session-store downgrade "
                    f"{target}"
                )
            if found.state not in (compatibility.State.BEHIND, compatibility.State.CURRENT):
                raise SchemaMismatch(compatibility.explain(found, _name(engine)))
            plan = migrating.downgrade_plan(found.revision, target)
            self._tell(plan, _name(engine), "undo")
            lost = [revision for revision in plan if revision.downgrade_loses]
            for revision in lost:
                self.output.text(f"Undoing {revision.id} loses {revision.downgrade_loses}.")
            if self.dry_run or not plan:
                return ExitCode.DONE
            if lost and not self.answer_yes:
                raise ConfigurationError(
                    "This downgrade loses data, and was refused; expected --yes. Nothing was "
                    "changed."
                )
            end = plan[-1].previous or "base"
            migrating.downgrade(engine, end, planned=plan, log=self.log)
            self.output.text(f"Done: revision {_status(engine).revision or 'base'}.")
        return ExitCode.DONE


class Current(_Look):
    """Show which revision the database is at."""

    name = "jupyter-session-store current"
    description = "Show which revision the database is at, and how that stands to this code."
    examples = """
    jupyter session-store current
    jupyter session-store current --json
    """
    flags: Any = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        """Show it."""
        from ..sql.schema import compatibility

        with self.looking() as engine:
            found = _status(engine)
            self.output.one(
                {
                    "database": _name(engine),
                    "revision": found.revision,
                    "state": found.state.value,
                    "usable": found.usable,
                    "oldest_compatible_code": found.oldest_compatible_code,
                    "code": compatibility.CODE,
                    "head": compatibility.HEAD,
                }
            )
        return ExitCode.DONE


class History(StoreCommand):
    """Show the revisions that this installation has."""

    name = "jupyter-session-store history"
    description = """
    Show the revisions that this installation has, the oldest first.

    Servers of older releases go on working after an expanding revision. After a
    contracting one only code of at least the generation in the last column
    works. Looks at no database.
    """
    examples = """
    jupyter session-store history
    jupyter session-store history --json
    """
    flags: Any = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        """Show them."""
        from ..sql.schema import migrating

        rows = (
            {
                "revision": revision.id,
                "previous": revision.previous,
                "kind": revision.kind,
                "oldest_compatible_code": revision.oldest_compatible_code,
                "downgrade_loses": revision.downgrade_loses,
                "title": revision.title,
            }
            for revision in migrating.revisions()
        )
        columns = {
            "revision": "REVISION",
            "kind": "KIND",
            "title": "TITLE",
            "downgrade_loses": "A DOWNGRADE LOSES",
            "oldest_compatible_code": "OLDEST CODE",
        }
        self.output.rows(rows, columns, empty="There are none.")
        return ExitCode.DONE


class Check(_Look):
    """Say by the exit code whether the schema fits this code."""

    name = "jupyter-session-store check"
    description = """
    Say by the exit code whether servers of this installation can work with the
    database: 0 if its schema is the newest or compatible, 1 if not, or if it
    cannot be reached; then with the command to run.

    With --wait for an init container: until it fits, or the time is over. A
    database that does not answer is given up after some seconds, and asked again.
    """
    examples = """
    jupyter session-store check
    jupyter session-store check --wait 120
    """
    aliases: Any = {**StoreCommand.aliases, "wait": "Check.wait"}

    wait = Float(0.0, help="Seconds to wait for a schema that fits.").tag(config=True)

    def run(self) -> ExitCode:
        """Look, and look again while there is time."""
        deadline = time.monotonic() + self.wait
        said = ""
        while True:
            fits, text = self._look()
            text = self.cured(text)
            if fits:
                self.output.text(text)
                return ExitCode.DONE
            if time.monotonic() >= deadline:
                self.note(text)
                return ExitCode.NO
            if text != said:
                self.note(f"Waiting: {text}")
                said = text
            time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def _look(self) -> tuple[bool, str]:
        from ..sql.schema import compatibility

        try:
            with self.looking() as engine:
                found = _status(engine)
                if found.state is compatibility.State.CURRENT:
                    return True, f"{_name(engine)} is at revision {found.revision}, the newest."
                return found.usable, compatibility.explain(found, _name(engine))
        except (StoreUnavailable, SchemaMismatch) as error:
            return False, str(error)


__all__ = ["Check", "Current", "Downgrade", "History", "Upgrade"]
