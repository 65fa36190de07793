"""The storage contract behind the session manager, and how a plugin is found."""

from __future__ import annotations

import gc
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from logging import Logger
from types import MappingProxyType
from typing import Any, Final

from .errors import (
    ConfigurationError,
    InvalidValue,
    PathClaimed,
    SessionConflict,
    SessionStoreError,
    UnknownRepository,
)
from .locations import without_credentials
from .records import (
    Closing,
    Departure,
    Mirrored,
    Move,
    Scope,
    ServerRecord,
    SessionRecord,
    StoreContents,
    StoreDescription,
)

ENTRY_POINT_GROUP: Final = "jupyter_session_store.repositories"
#: The package's own, as pyproject.toml has them: to look through all that is installed for what
#: most servers use would take a hundredth of their start.
_OWN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sqlalchemy": "jupyter_session_store.sql.repository:SQLAlchemySessionRepository",
        "memory": "jupyter_session_store.memory:MemorySessionRepository",
    }
)
#: How long a connection is kept that nobody uses, unless a user says otherwise.
CONNECTION_IDLE_SECONDS: Final = 15.0
#: What :meth:`SessionRepository.update` does not take from a record: what tells whose a session is,
#: and what changes by itself with the rest.
_NOT_UPDATED: Final = frozenset(
    {"namespace", "authority", "server_id", "claim", "created_at", "updated_at", "version"}
)


class SessionRepository(ABC):
    """Where sessions are kept: the contract that every repository fulfils.

    A repository is a plugin, named in the entry-point group
    ``jupyter_session_store.repositories``. It proves that it keeps this
    contract by inheriting :class:`jupyter_session_store.testing.RepositoryContract`.

    **Construction** has no side effect but reading the URL: no connection, no
    file, no thread that outlives a failed constructor. :meth:`open` follows
    once, :meth:`close` ends every use.

    **Threads and tasks.** The verbs that are coroutines are called from tasks
    of any one event loop, as many at once as there are requests, and block
    none. The others block for `timeout` seconds at most and are called from
    any thread: :meth:`renew` and :meth:`evict` from one that is not the loop's.

    **Scope.** Each verb is confined to one :class:`~.records.Scope`, compared
    exactly: a session of another namespace or authority is neither returned
    nor changed nor removed, nor does it stand in the way.

    **Exactness.** What goes in comes out: case, accents, normalisation form,
    spaces at the edges, emoji, up to the lengths in :data:`.records.LIMITS`.
    The caller has checked its texts (:meth:`.SessionRecord.check`). How a record is kept is the
    repository's own affair; :meth:`.SessionRecord.to_dict` and :meth:`.SessionRecord.from_dict`
    are for those that keep JSON.

    **Versions.** Each change of a session adds one to its :attr:`.SessionRecord.version`, in the
    same unit of work, and to no other session's. Reading adds nothing. Whoever adds a session
    says with which version it begins.

    **One unit of work.** Each verb is atomic: it happens wholly or not at all,
    and repeated after an answer that was lost it succeeds the same, but for
    :meth:`move`, which says that there is nothing to move.

    **Errors.** Any verb raises :class:`.StoreUnavailable` if the store cannot
    be reached in bounded time, and :class:`.SchemaMismatch` if what it finds
    there does not fit. Either way nothing is known to have changed, and the
    repository goes on to be usable: the next call tries again.

    Parameters
    ----------
    url : str
        What the user gave as ``SessionManager.database_filepath``, and
        :meth:`validate_url` has accepted.
    options : mapping
        ``PersistentSessionManager.engine_options``; its meaning is the
        repository's own.
    auto_upgrade : str
        ``"safe"``, ``"always"`` or ``"never"``: whether :meth:`open` may bring
        a schema that is behind to the newest.
    log : logging.Logger
        For what an operator should know. Never a password or a whole URL.

    Raises
    ------
    ConfigurationError
        If the options are not usable.
    """

    #: ``PersistentSessionManager.connection_idle_seconds``, set before :meth:`open`: seconds
    #: without a call after which a repository that holds a connection gives it up.
    connection_idle_seconds: float = CONNECTION_IDLE_SECONDS

    @abstractmethod
    def __init__(
        self, url: str, *, options: Mapping[str, Any], auto_upgrade: str, log: Logger
    ) -> None: ...

    @classmethod
    @abstractmethod
    def default_url(cls, data_dir: str) -> str:
        """Return the URL that is used where the user gives none.

        `data_dir` is Jupyter's data directory, for those who keep a file.
        """

    @classmethod
    @abstractmethod
    def validate_url(cls, url: str) -> None:
        """Refuse a URL that can never work, as early as at configuration.

        Connects to nothing and creates nothing.

        Raises
        ------
        ConfigurationError
            With what was found, what is expected and the cure.
        """

    @abstractmethod
    def open(self, scope: Scope, server: ServerRecord, *, timeout: float) -> None:
        """Make the store ready for use, or refuse it; register the server.

        A store that cannot be reached within `timeout` seconds is no error:
        this returns, and the first verb that reaches it checks it then.

        Parameters
        ----------
        scope : Scope
            The opening server's: whose the sessions become that an older
            store at the same place left behind.
        server : ServerRecord
            The opening server. One that is registered already is renewed.

        Raises
        ------
        SchemaMismatch
            If the schema does not fit and may not be upgraded here.
        ConfigurationError
            If what was found can never work with these settings.
        """

    @abstractmethod
    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        """End every use: no thread and no connection stays. Idempotent.

        Parameters
        ----------
        departure : Departure or None
            What a server that stops in order asks for first: that the sessions go which it
            :meth:`removes <.Departure.removes>`, and then the server's registration, unless it
            :meth:`keeps <.Departure.keeps_registration>` that. A store that cannot be reached
            within `timeout` seconds is no error: then all is left to the server's lease.
        """

    @abstractmethod
    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Return the sessions of a scope that equal every criterion.

        Parameters
        ----------
        **criteria : str or None
            Of :data:`.records.STOCK_COLUMNS`. ``None`` equals nothing, as
            ``NULL`` in SQL. Without criteria: all sessions of the scope.

        Returns
        -------
        list of SessionRecord
            Ordered by ``created_at``, then ``session_id``; empty if there are none.
        """

    @abstractmethod
    async def add(self, record: SessionRecord) -> None:
        """Add a session, its claim (if it has one) included.

        One that is there already stays as it is, and is a success, if the record
        :meth:`repeats <.SessionRecord.is_repeated_by>` it: its first answer was lost.

        Raises
        ------
        SessionConflict
            If another session of the namespace has this id.
        PathClaimed
            If another session holds the claim.
        """

    @abstractmethod
    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        expected: Mapping[str, str | int] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """Change a session.

        A new path takes its claim if it is free, else the session holds none.

        Parameters
        ----------
        changes : mapping
            Not empty. Of :data:`.records.STOCK_COLUMNS`, ``kernel_name``,
            ``kernel_model``, ``state`` and ``version``, which is one more than
            before if it is not given.
        expected : mapping
            Of ``state``, ``server_id`` and ``version``: a session that does not equal it
            is not changed.

        Returns
        -------
        SessionRecord or None
            The session as it is now; ``None`` if there is none of that id, as
            expected.

        Raises
        ------
        SessionConflict
            If `changes` gives it the id of another session.
        """

    @abstractmethod
    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """Mark a session as closing, and say whether it is its kernel's last.

        The other sessions on the kernel are counted in the same unit of work,
        as far as they stay (:attr:`.SessionRecord.keeps_kernel_alive`). The session becomes
        `server_id`'s, so that the mark goes with that server.

        Returns
        -------
        Closing or None
            ``None`` if there is no session of that id.
        """

    @abstractmethod
    async def move(
        self, scope: Scope, session_id: str, kernel_id: str, changes: Mapping[str, str | None]
    ) -> Move | None:
        """Change a session that is on a kernel, and say whether it was that kernel's last.

        The other sessions on the kernel are counted in the same unit of work,
        as far as they stay (:attr:`.SessionRecord.keeps_kernel_alive`).

        Parameters
        ----------
        kernel_id : str
            The kernel that the session is on. One that is on another is not
            changed.
        changes : mapping
            As :meth:`update` has them, ``kernel_id`` among them and
            ``session_id`` not.

        Returns
        -------
        Move or None
            ``None`` if there is no session of that id on that kernel: a move
            whose answer was lost was perhaps made.
        """

    @abstractmethod
    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Remove sessions, each only if it still has the kernel that its record names.

        Returns
        -------
        int
            How many were removed; one that is not there is no error.
        """

    async def mirror(
        self, scope: Scope, wanted: Callable[[], Collection[SessionRecord]]
    ) -> Mirrored:
        """Make the sessions of a scope equal to some: add, change and remove what differs.

        For a scope whose sessions one server alone writes, and keeps in memory.
        Called after each of its renewals; most often nothing differs.

        This default uses the other verbs, one for each session that differs. A
        repository that overrides it does it in one unit of work.

        Parameters
        ----------
        wanted : callable
            Returns the sessions, each with another `version` than the store's if it
            was changed. Called from any thread, when what the store has is read: no change
            that was asked for before is undone. If it is called again, the last answer counts.

        Returns
        -------
        Mirrored
            A session that cannot be stored stands in the way of no other.
        """
        found = {one.session_id: one for one in await self.find(scope)}
        records = {one.session_id: one for one in wanted()}
        kept = {
            session_id: one
            for session_id, one in found.items()
            if session_id in records and _updates_lead_to(one, records[session_id])
        }
        # First, with those that change their path: what one session gives up, another may take.
        await self.remove(scope, [one for name, one in found.items() if name not in kept])
        stored: dict[str, SessionRecord] = {}
        refused: dict[str, SessionStoreError] = {}
        for session_id, record in records.items():
            try:
                stored[session_id] = await self._mirror_one(kept.get(session_id), record)
            except (InvalidValue, SessionConflict) as error:
                refused[session_id] = error
                if session_id in kept:
                    stored[session_id] = kept[session_id]
        return Mirrored(stored, refused)

    async def _mirror_one(
        self, found: SessionRecord | None, record: SessionRecord
    ) -> SessionRecord:
        if found is not None:
            if record.says_the_same(found):
                return found
            changes = changed_columns(found, record)
            updated = await self.update(record.scope, record.session_id, changes)
            if updated is not None:
                return updated
        try:
            await self.add(record)
        except PathClaimed:
            record = record.replace(claim=None)
            await self.add(record)
        return record

    async def mirror_change(
        self, before: SessionRecord, after: SessionRecord
    ) -> SessionRecord | None:
        """Make one session equal to what its server has in memory, right after a change.

        For a scope that :meth:`mirror` is for. This default is an :meth:`update`. A repository
        that overrides it need not read the session again.

        Parameters
        ----------
        before : SessionRecord
            The session as the store is known to have it.
        after : SessionRecord
            The same session as it is to be, of the same scope and with a higher `version`. Its id
            may be a new one.

        Returns
        -------
        SessionRecord or None
            The session as the store has it now, which says the same as `after`. ``None`` if it
            could not be made so: the store has another version than `before`, or none, or the
            claim of `after` is not free. Then :meth:`mirror` tells what the store has, which may
            be `after` without its claim, and with its version.

        Raises
        ------
        SessionConflict
            If another session has the id of `after`.
        """
        changes = {**changed_columns(before, after), "version": after.version}
        expected = {"version": before.version}
        stored = await self.update(before.scope, before.session_id, changes, expected=expected)
        return stored if stored is not None and stored.says_the_same(after) else None

    @abstractmethod
    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        """Renew a server's lease, and look at the others'.

        A server that was evicted meanwhile is registered again, and its
        sessions are written back.

        Parameters
        ----------
        held : collection of SessionRecord
            The sessions on kernels that it still runs itself. Added, where it
            was evicted, unless they are there.

        Returns
        -------
        list of ServerRecord
            Every server of the namespace, this one included.
        """

    @abstractmethod
    def evict(
        self, scope: Scope, servers: Collection[ServerRecord], by: str, *, timeout: float
    ) -> list[SessionRecord]:
        """Evict servers that stopped renewing, and take over what they left.

        One that renewed its lease since it was seen stays. Then, for every
        server of the namespace that is not registered: the sessions on its
        local kernels are removed; sessions that it was closing are ready
        again; of those that it was starting, the ones that name no kernel are
        removed, and the others of `scope` become `by`'s. A session's server is
        the one that is its authority (:func:`.server_of`), else its ``server_id``.

        Parameters
        ----------
        scope : Scope
            The evicting server's.
        servers : collection of ServerRecord
            As they were seen, their ``renewals`` above all; may be empty.
        by : str
            The id of the evicting server.

        Returns
        -------
        list of SessionRecord
            The sessions of `scope` that `by` is starting or closing now. Those
            that it took over are to finish: to make ready if their kernel
            lives, to remove if it is gone. So are those that it knows nothing of:
            a store that was restored has brought them back.
        """

    @property
    def identity(self) -> Hashable | None:
        """What only repositories of one store have in common; ``None`` if that is not known.

        Session managers over one kernel manager, in one process, share their sessions if
        they have this in common.
        """
        return None

    def describe(self) -> StoreDescription:
        """Return what may be shown of the store, and what it has counted.

        Called after each renewal, too: where ``unfinished`` of it is not zero,
        :meth:`evict` follows. Asks nobody, never fails, and is called from any thread. A repository
        that does not override it is shown by the name of its class, and its evictions are not
        counted: the conformance suite does not accept that.
        """
        return StoreDescription(type(self).__name__)

    def read_all(self, *, timeout: float) -> StoreContents | None:
        """Return all sessions and servers, of every namespace, for an operator's command.

        Called without :meth:`open`, which would register a server, and blocks for `timeout`
        seconds at most. ``None`` where the store cannot be read as a whole, which is so unless
        this is overridden.

        Raises
        ------
        StoreUnavailable
            If the store cannot be reached in time.
        """
        return None

    async def revision(self) -> str | None:
        """Return the revision of the store's schema, as it is now.

        ``None`` where the store has no revisions, which is so unless this is overridden.
        """
        return None


def changed_columns(before: SessionRecord, after: SessionRecord) -> dict[str, Any]:
    """Return the changes, for :meth:`SessionRepository.update`, that make `after` of `before`.

    A claim goes with its path.
    """
    changes = {
        name: getattr(after, name)
        for name in SessionRecord._fields
        if name not in _NOT_UPDATED and getattr(before, name) != getattr(after, name)
    }
    if before.claim != after.claim:
        changes["path"] = after.path
    return changes


def _updates_lead_to(before: SessionRecord, after: SessionRecord) -> bool:
    """Return whether :meth:`SessionRepository.update` alone makes `after` of `before`.

    A new path takes its claim if it is free, whatever is wanted.
    """
    changes = changed_columns(before, after)
    return "path" not in changes and after.says_the_same(before.replace(**changes))


def repository_names() -> list[str]:
    """Return the names of the installed repositories, sorted."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Put off the collection of garbage during an import, and spare it what was imported.

    An import makes very many objects, which all stay. To look through them
    again and again is a fifth of what importing SQLAlchemy costs a server's
    start; to look through all of a server's at once, as happens now and then,
    stops the event loop for a tenth of a second. So they are frozen
    (:func:`gc.freeze`), with what was there before: once in a process, when
    something is really imported.
    """
    if not gc.isenabled():
        yield
        return
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        gc.enable()


@cache
def load_repository(name: str) -> type[SessionRepository]:
    """Return the repository class that an entry point names, in the group of repositories.

    It is looked for once in a process. No other package can take a name of this one's.

    Raises
    ------
    UnknownRepository
        If there is none of that name; the text lists the known ones.
    ConfigurationError
        If it cannot be imported, or is no :class:`SessionRepository`.
    """
    if name in _OWN:
        found = [EntryPoint(name, _OWN[name], ENTRY_POINT_GROUP)]
    else:
        found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        shown = without_credentials(repr(name))
        raise UnknownRepository(
            f"No session repository is called {shown}; the installed ones are "
            f"{', '.join(repository_names()) or 'none'}. Set "
            "c.PersistentSessionManager.repository to one of them, or install the "
            "package that brings it."
        )
    try:
        with garbage_kept():
            loaded = found[0].load()
    except ImportError as error:
        raise ConfigurationError(
            f"The session repository {name!r} ({found[0].value}) cannot be imported: "
            f"{error}. Install what it needs, or set "
            "c.PersistentSessionManager.repository to another."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, SessionRepository)):
        raise ConfigurationError(
            f"The session repository {name!r} ({found[0].value}) is not a subclass of "
            "jupyter_session_store.repository.SessionRepository."
        )
    return loaded
