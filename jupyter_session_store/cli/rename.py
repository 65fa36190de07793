"""Give a namespace another name."""

from __future__ import annotations

from ..errors import ConfigurationError, SessionConflict
from ..records import check_namespace, check_text
from .command import JSON_FLAG, ExitCode, StoreCommand
from .removal import CleaningCommand


class Rename(CleaningCommand):
    name = "jupyter-session-store rename"
    description = """
    Give the sessions of a namespace to another one: a user was renamed.

    All of it in one transaction, or nothing. Where the new namespace has
    sessions already, those that come and whose path is held there lose their
    claim to it; if both have a session of one id, all is refused.

    Refused, with exit code 5, while a server of either is alive, which is seen
    by watching for as long as the longest lease.
    """
    examples = """
    jupyter session-store rename hub:alice/ hub:alice.smith/
    """
    arguments = {
        "NAMESPACE": "The namespace whose sessions are given away.",
        "NEW": "The namespace that gets them.",
    }
    flags = {
        **StoreCommand.flags,
        **JSON_FLAG,
        "force": (
            {"CleaningCommand": {"force": True}},
            "Though servers of either may be alive: one of the old name goes on under it, and "
            "takes the sessions of its running kernels back.",
        ),
    }
    interrupt_message = "All was changed, or nothing: look with `jupyter session-store list`."

    def run(self) -> ExitCode:
        from ..sql.admin import renaming

        old, new = self.extra_args
        check_text("namespace", old)
        check_namespace(new)
        if old == new:
            raise ConfigurationError(
                f"Found {old!r} twice; expected the namespace and another name for it."
            )
        with self.connection() as connection:
            dead = None
            if not self.force:
                alive, dead = self.observe_servers(connection, old, new)
                if alive:
                    self.report_alive(alive)
                    return ExitCode.ALIVE
            try:
                done = renaming.rename(connection, old, new, dead)
            except renaming.ServerAppeared as error:
                self.report_alive([error.server])
                return ExitCode.ALIVE
            except SessionConflict as error:
                self.note(
                    f"Both {old!r} and {new!r} have a session of the id {error.session_id!r}; "
                    "expected none. Nothing was changed. Remove one of the two."
                )
                return ExitCode.NO
        if not done.sessions and not done.servers:
            self.note(f"There is nothing of the namespace {old!r}.")
            return ExitCode.DONE
        self.report(
            done._asdict(),
            f"Renamed {done.sessions} session(s) and {done.servers} server(s); "
            f"{done.claims_lost} lost the claim to their path.",
        )
        return ExitCode.DONE
