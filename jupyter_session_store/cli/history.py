"""Show the revisions that this installation has."""

from __future__ import annotations

from .command import JSON_FLAG, ExitCode, StoreCommand


class History(StoreCommand):
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
    flags = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
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
