"""What doctor and ``wall check`` share: findings, and what mends what is not well."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ..sql.doctor import Finding
    from .command import StoreCommand

_COLUMNS: Final = {"name": "EXAMINED", "verdict": "VERDICT", "text": "FOUND"}


def report_findings(command: StoreCommand, findings: Iterator[Finding]) -> list[Finding]:
    """Write findings as they come, and return them."""
    found: list[Finding] = []
    columns = dict(_COLUMNS)
    if not sys.stdout.isatty():
        columns["cure"] = "CURE"
    command.output.rows(_rows(command, findings, found), columns, empty="")
    if sys.stdout.isatty():
        # A cell of the table would break a command into lines.
        cures = [(one.name, cure) for one in found for cure in _cure_of(command, one)]
        if cures:
            command.output.text("")
        for name, cure in cures:
            command.output.text(f"{name}: {cure}")
    return found


def _rows(
    command: StoreCommand, findings: Iterator[Finding], found: list[Finding]
) -> Iterator[dict[str, Any]]:
    for finding in findings:
        found.append(finding)
        row = {**vars(finding), "verdict": finding.verdict.value}
        cure = _cure_of(command, finding)
        if command.as_json:
            yield {**row, "cure": cure}
            continue
        yield {**row, "cure": cure[0] if cure else None}
        if not sys.stdout.isatty():
            # Each in a line of its own, to be copied or piped.
            yield from ({**dict.fromkeys(row, ""), "cure": one} for one in cure[1:])


def _cure_of(command: StoreCommand, finding: Finding) -> list[str]:
    return [command.add_url_to_commands(one) for one in finding.cure]
