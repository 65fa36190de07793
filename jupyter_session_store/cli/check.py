"""Say by the exit code whether the schema fits this code."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from traitlets import Float

from ..errors import SchemaMismatch, StoreUnavailable
from .command import JSON_FLAG, ExitCode, StoreCommand, exit_code_of
from .schema import schema_status
from .terminal import StatusLine

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: Seconds between two looks of ``--wait``.
_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True)
class _Answer:
    """What one look at the database has found; without a revision, that it could not be asked."""

    code: ExitCode
    text: str
    revision: str | None = None
    state: str | None = None


class Check(StoreCommand):
    name = "jupyter-session-store check"
    description = """
    Say by the exit code whether servers of this installation can work with the
    database: 0 if its schema is the newest or compatible, 4 if not, 6 if its
    file is not there, 3 if it cannot be reached, 2 if the role may not read the
    schema; then with the command or the statement that mends it. What servers
    need to write is examined by doctor.

    With --wait for an init container: until it fits, or the time is over. A
    database that does not answer is given up after some seconds, and asked again.
    """
    examples = """
    jupyter session-store check
    jupyter session-store check --json
    jupyter session-store check --wait 120
    """
    flags = {**StoreCommand.flags, **JSON_FLAG}
    aliases = {**StoreCommand.aliases, "wait": "Check.wait"}

    wait = Float(0.0, help="Seconds to wait for a schema that fits.").tag(config=True)

    def run(self) -> ExitCode:
        with StatusLine() as line:
            answer = self._wait(line)
        text = self.add_url_to_commands(answer.text)
        if self.as_json:
            self.output.one(
                {
                    "database": self.database_name,
                    "revision": answer.revision,
                    "state": answer.state,
                    "fits": answer.code is ExitCode.DONE,
                    "exit_code": answer.code,
                    "text": text,
                }
            )
        elif answer.code is ExitCode.DONE:
            self.output.text(text)
        else:
            self.note(text)
        return answer.code

    def _wait(self, line: StatusLine) -> _Answer:
        """Return the answer once it is good, or the last one when the time is over."""
        deadline = time.monotonic() + self.wait
        said = ""
        while True:
            answer = self._look()
            left = deadline - time.monotonic()
            if answer.code is ExitCode.DONE or left <= 0:
                return answer
            if answer.text != said:
                line.clear()
                self.note(f"Waiting: {self.add_url_to_commands(answer.text)}")
                said = answer.text
            line.show(f"Waiting ... {left:.0f} s left")
            time.sleep(min(_POLL_SECONDS, left))

    def _look(self) -> _Answer:
        from ..sql.schema import versions

        try:
            with self.database(statement_timeout=True, writes=False) as engine:
                found = schema_status(engine)
                answer = _Answer(
                    ExitCode.DONE if found.usable else ExitCode.SCHEMA_MISMATCH,
                    versions.explain(found, self.database_name),
                    found.revision,
                    found.state.value,
                )
                if found.state is versions.State.CURRENT:
                    return self._compare_keys(engine, answer)
                return answer
        except (StoreUnavailable, SchemaMismatch) as error:
            return _Answer(exit_code_of(error), str(error))

    def _compare_keys(self, engine: Engine, answer: _Answer) -> _Answer:
        """Return the answer for a current schema: whether it has all the keys that it needs."""
        from ..sql.admin import admin_connection
        from ..sql.schema import keys

        text = f"{self.database_name} is at revision {answer.revision}, the newest"
        with admin_connection.connected(engine) as connection:
            lacks = keys.lacking(connection)
        if not lacks:
            return replace(answer, text=f"{text}.")
        missing = ", ".join(lack.text for lack in lacks)
        cure = "For the statements that make them, run: jupyter session-store doctor"
        fits = not any(lack.is_key for lack in lacks)
        return replace(
            answer,
            code=ExitCode.DONE if fits else ExitCode.SCHEMA_MISMATCH,
            text=f"{text}, and lacks {missing}. {cure}",
        )
