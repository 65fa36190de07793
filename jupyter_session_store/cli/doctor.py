"""Examine the database and the way to it."""

from __future__ import annotations

from .command import JSON_FLAG, ExitCode, StoreCommand
from .findings import report_findings


class Doctor(StoreCommand):
    name = "jupyter-session-store doctor"
    description = """
    Examine the database and the way to it, from this machine and with the
    settings of its servers: versions, connection, TLS, a pooler in between,
    revision, rights, clock, room, the wall between users, the file's mode and
    where it lies.

    Nothing is changed. Each finding has a verdict (ok, warning, failed, or
    unknown: it could not be examined) and, if it is not well, what mends it.

    Exit codes: 0 nothing failed; 1 something did; 2 a setting is wrong; 3 the
    database cannot be reached, 6 its file is not there, after what was found
    until then.
    """
    examples = """
    jupyter session-store doctor
    jupyter session-store doctor --url env:DB_URL
    jupyter session-store doctor --json
    """
    flags = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        from ..sql.doctor import CONNECTION, Verdict, examine

        # With `create`, a missing file is a finding and no error; it is not created.
        with self.database(create=True, statement_timeout=True) as engine:
            found = report_findings(self, examine(engine))
        verdicts = {finding.name: finding.verdict for finding in found}
        if verdicts[CONNECTION] is Verdict.FAILED:
            missing = self.missing_file() is not None
            return ExitCode.MISSING_FILE if missing else ExitCode.UNAVAILABLE
        return ExitCode.NO if Verdict.FAILED in verdicts.values() else ExitCode.DONE
