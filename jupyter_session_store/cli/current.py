"""Show which revision the database is at."""

from __future__ import annotations

from .command import JSON_FLAG, ExitCode, StoreCommand
from .schema import schema_status


class Current(StoreCommand):
    name = "jupyter-session-store current"
    description = "Show which revision the database is at, and how that stands to this code."
    examples = """
    jupyter session-store current
    jupyter session-store current --json
    """
    flags = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        from ..sql.schema import versions

        with self.database(statement_timeout=True, writes=False) as engine:
            found = schema_status(engine)
            self.output.one(
                {
                    "database": self.database_name,
                    "revision": found.revision,
                    "state": found.state.value,
                    "usable": found.usable,
                    "oldest_compatible_code": found.oldest_compatible_code,
                    "code": versions.CODE,
                    "head": versions.HEAD,
                }
            )
        return ExitCode.DONE
