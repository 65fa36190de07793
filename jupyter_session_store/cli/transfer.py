"""What copy and import share: the target, progress, and the report at the end."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from traitlets import Bool

from ..errors import StoreUnavailable
from .command import JSON_FLAG, ExitCode, StoreCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from ..sql.admin.bulk_insert import Counts

_RERUN_ADVICE: Final = "What was copied until then stays; run the same command again to go on."


class TransferCommand(StoreCommand):
    """What copy and import share: the database that is filled, and what is said of it."""

    flags = {
        **StoreCommand.flags,
        "json": (JSON_FLAG["json"][0], "Print the counts as JSON."),
        "dry-run": ({"TransferCommand": {"dry_run": True}}, "Look and count, and change nothing."),
    }
    interrupt_message: str = _RERUN_ADVICE

    dry_run = Bool(False, help="Look and count, and change nothing.").tag(config=True)

    @contextmanager
    def open_target(self, given: str) -> Iterator[Connection | None]:
        """Yield a connection to a database; one without tables gets them.

        In a dry run it gets none, and ``None`` is yielded.
        """
        from ..sql.admin import admin_connection
        from ..sql.schema import migrating, versions

        if self.dry_run and self.missing_file(given) is not None:
            yield None
            return
        with self.database(given, create=True) as engine:
            with admin_connection.connected(engine) as connection:
                empty = versions.status(connection).state is versions.State.EMPTY
            if empty and self.dry_run:
                yield None
                return
            if empty:
                migrating.upgrade(engine, log=self.log)
            with _advise_rerun(), admin_connection.connected(engine) as connection:
                self.require_usable(connection, given)
                yield connection

    def _note_conflicts(self, counts: Counts) -> None:
        """Say which sessions the target kept as they were, and which came without a claim."""
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

    def report_dry_run(self, values: dict[str, Any], counts: Counts) -> ExitCode:
        """Write the counts of what would be added."""
        self.output.one({**values, "dry_run": True})
        self._note_conflicts(counts)
        return ExitCode.DONE

    def report(
        self, values: dict[str, Any], counts: Counts, verified: int, missing: int, what: str
    ) -> ExitCode:
        """Write the counts, and whether the target has everything."""
        self.output.one({**values, "verified": verified, "missing": missing})
        self._note_conflicts(counts)
        if missing:
            self.note(
                f"Of {verified} {what}, {missing} are not there: they were left out, or came or "
                "went meanwhile. Run the same command again; it adds what is missing."
            )
            return ExitCode.NO
        self.output.text(f"Verified: all {verified} {what} are there.")
        return ExitCode.DONE


@contextmanager
def _advise_rerun() -> Iterator[None]:
    """Add to an error that the same command goes on where it was cut off."""
    try:
        yield
    except StoreUnavailable as error:
        raise type(error)(f"{error.reason}.\n{_RERUN_ADVICE}") from error


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the size of each batch; a terminal shows a progress bar."""
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


def count_fields(counts: Counts, added: str) -> dict[str, int]:
    """Return the counts by their names, with `added` for the number of those added."""
    return {added if name == "added" else name: value for name, value in asdict(counts).items()}
