"""The domain errors. None knows of HTTP, and none carries a password or a whole URL."""

from __future__ import annotations


class SessionStoreError(Exception):
    """The base of every error that this package raises for a reason of its own."""


class ConfigurationError(SessionStoreError, ValueError):
    """A setting is wrong: what was found, what is expected, and the cure."""


class UnknownRepository(ConfigurationError):
    """No repository of that name is installed."""


class InvalidValue(SessionStoreError, ValueError):
    """A value cannot be stored: the field's name, what the value is, and what is expected."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        super().__init__(f"Invalid {field}: it {found}; expected {expected}.")
        self.field = field
        self.found = found


class SessionConflict(SessionStoreError):
    """A session of that id is already there, and is another one."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"Another session has the id {session_id!r}.")
        self.session_id = session_id


class PathClaimed(SessionStoreError):
    """Another session holds the claim to the path."""

    def __init__(self, path: str | None) -> None:
        super().__init__(f"Another session holds the path {path!r}.")
        self.path = path


class KernelNotStarted(Exception):
    """The kernel that a session was to move to could not be started; its cause says why."""


class StoreUnavailable(SessionStoreError):
    """The store could not be asked, and nothing is known to have changed.

    Parameters
    ----------
    reason : str
        What happened, without a password or a whole URL.
    retry_after : int
        Seconds after which a client may try again.
    """

    #: What is unavailable.
    what = "session store"
    #: Whether its text may be shown to a client: it says nothing of the database or its driver.
    is_public = False

    def __init__(self, reason: str, *, retry_after: int = 5) -> None:
        super().__init__(f"The {self.what} is unavailable: {reason}")
        self.reason = reason
        self.retry_after = retry_after


class StoreUnusable(StoreUnavailable):
    """The store cannot be used until a setting or an installation is mended.

    At start a server refuses it; later it is a fault like any other.
    """


class WaitTimedOut(StoreUnavailable):
    """Another server did not finish in time what a request has waited for."""

    is_public = True


class GatewayUnavailable(StoreUnavailable):
    """The gateway could not be asked for a kernel, and so nothing was changed."""

    what = "gateway"
    is_public = True


class SchemaMismatch(SessionStoreError):
    """The database's schema does not fit this code: found, expected, what to run."""


class RightMissing(SchemaMismatch, ConfigurationError):
    """The role lacks a right, and goes on lacking it until it is granted."""


class DatabaseFileMissing(SchemaMismatch):
    """The file of a database is not there, and is not to be made."""
