"""Examine the database and the way to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from .command import JSON_FLAG, ExitCode, StoreCommand

if TYPE_CHECKING:
    from ..sql.doctor import Finding

_COLUMNS: Final = {"name": "EXAMINED", "verdict": "VERDICT", "text": "FOUND"}


class Doctor(StoreCommand):
    name = "jupyter-session-store doctor"
    description = """
    Examine the database and the way to it, from this machine and with the
    settings of its servers: versions, connection, TLS, a pooler in between,
    revision, rights, clock, room, the file's mode and where it lies.

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

        found: list[Finding] = []
        # With `create`, a missing file is a finding and no error; it is not created.
        with self.database(create=True, statement_timeout=True) as engine:
            columns = dict(_COLUMNS)
            if not sys.stdout.isatty():
                columns["cure"] = "CURE"
            self.output.rows(self._rows(examine(engine), found), columns, empty="")
        if sys.stdout.isatty():
            # A cell of the table would break a command into lines.
            cures = [(one.name, cure) for one in found for cure in self._cure_of(one)]
            if cures:
                self.output.text("")
            for name, cure in cures:
                self.output.text(f"{name}: {cure}")
        verdicts = {finding.name: finding.verdict for finding in found}
        if verdicts[CONNECTION] is Verdict.FAILED:
            missing = self.missing_file() is not None
            return ExitCode.MISSING_FILE if missing else ExitCode.UNAVAILABLE
        return ExitCode.NO if Verdict.FAILED in verdicts.values() else ExitCode.DONE

    def _rows(self, findings: Iterator[Finding], found: list[Finding]) -> Iterator[dict[str, Any]]:
        for finding in findings:
            found.append(finding)
            row = {**vars(finding), "verdict": finding.verdict.value}
            cure = self._cure_of(finding)
            if self.as_json:
                yield {**row, "cure": cure}
                continue
            yield {**row, "cure": cure[0] if cure else None}
            if not sys.stdout.isatty():
                # Each in a line of its own, to be copied or piped.
                yield from ({**dict.fromkeys(row, ""), "cure": one} for one in cure[1:])

    def _cure_of(self, finding: Finding) -> list[str]:
        return [self.add_url_to_commands(one) for one in finding.cure]
