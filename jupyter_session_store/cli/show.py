"""Show all that is stored of a session."""

from __future__ import annotations

from ..errors import ConfigurationError
from ..records import check_text
from .command import JSON_FLAG, ExitCode, StoreCommand
from .selection import SelectingCommand
from .session_columns import session_row


class Show(SelectingCommand):
    name = "jupyter-session-store show"
    only_reads = True
    description = """
    Show all that is stored of a session, in whichever namespace it is, or of
    each session that the options select.

    With --json an array, whatever their number. The exit code is 1 if there is
    none.
    """
    examples = """
    jupyter session-store show 0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55
    jupyter session-store show 0c9b7b0e-5d0a-4e6e-8c54-0d8e6c2f3a55 --json
    jupyter session-store show --namespace hub:alice/ --path Untitled.ipynb
    """
    arguments = {"SESSION": "The id of a session; by default the options say which."}
    optional_arguments = 1
    flags = {**StoreCommand.flags, **JSON_FLAG}

    def run(self) -> ExitCode:
        from ..sql.admin import listing

        session_id = self.extra_args[0] if self.extra_args else None
        chosen = None
        if session_id is not None:
            check_text("session_id", session_id)
            chosen = (session_id,)
        criteria = self.criteria(session_ids=chosen)
        if criteria == listing.Criteria():
            raise ConfigurationError(
                "Found neither SESSION nor an option that says which sessions; expected one of "
                "them, for example --path PATH. To show all of them: jupyter session-store list"
            )
        with self.connection() as connection:
            rows = map(session_row, listing.sessions(connection, criteria))
            if not self.output.each(rows):
                self.note(
                    f"There is no session of the id {session_id!r}."
                    if session_id and criteria == listing.Criteria(session_ids=chosen)
                    else "There is no such session."
                )
                return ExitCode.NO
        return ExitCode.DONE
