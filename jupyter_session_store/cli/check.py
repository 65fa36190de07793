"""Say by the exit code whether the schema fits this code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from traitlets import Float

from ..errors import SchemaMismatch, StoreUnavailable
from .command import ExitCode, StoreCommand
from .schema import schema_status

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: Seconds between two looks of ``--wait``.
_POLL_SECONDS: Final = 0.5


class Check(StoreCommand):
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
    aliases = {**StoreCommand.aliases, "wait": "Check.wait"}

    wait = Float(0.0, help="Seconds to wait for a schema that fits.").tag(config=True)

    def run(self) -> ExitCode:
        deadline = time.monotonic() + self.wait
        said = ""
        while True:
            fits, text = self._check_once()
            text = self.add_url_to_commands(text)
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

    def _check_once(self) -> tuple[bool, str]:
        from ..sql.schema import versions

        try:
            with self.database(statement_timeout=True, writes=False) as engine:
                found = schema_status(engine)
                if found.state is versions.State.CURRENT:
                    text = f"{self.database_name} is at revision {found.revision}, the newest"
                    return self._compare_keys(engine, text)
                return found.usable, versions.explain(found, self.database_name)
        except (StoreUnavailable, SchemaMismatch) as error:
            return False, str(error)

    def _compare_keys(self, engine: Engine, text: str) -> tuple[bool, str]:
        """Return whether a database has all the keys that it needs, and what it lacks."""
        from ..sql.admin import admin_connection
        from ..sql.schema import keys

        with admin_connection.connected(engine) as connection:
            lacks = keys.lacking(connection)
        if not lacks:
            return True, f"{text}."
        missing = ", ".join(lack.text for lack in lacks)
        cure = "For the statements that make them, run: jupyter session-store doctor"
        fits = not any(lack.is_key for lack in lacks)
        return fits, f"{text}, and lacks {missing}. {cure}"
