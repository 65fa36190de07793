"""Sessions in the records of their kernels, which the next server finds with the kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from weakref import WeakMethod, ref

from tornado.ioloop import IOLoop

from ..errors import InvalidValue, SessionConflict
from ..kernels.authority import FoundSessions, KernelAuthority, RecordedSession
from ..records import SessionRecord
from ..servers.heartbeat import Heartbeat
from .context import NewSession, SessionContext
from .local_records import LocalRecords
from .mirror import Mirror


class RecordWriter:
    """Keeps the records of kernels equal to the sessions in memory.

    Session managers that share the memory share it, and it lives as long as that: so it does
    not keep the kernel manager, for which the memory is kept.
    """

    def __init__(self, records: LocalRecords, authority: KernelAuthority) -> None:
        self._records = records
        self._kernel_manager = ref(authority.kernel_manager)
        #: Whether sessions are being taken over: a record has them all, and memory not yet.
        self.paused = False

    def __call__(self, kernel_id: str) -> None:
        """Record the sessions on a kernel."""
        kernel_manager: Any = self._kernel_manager()
        if self.paused or kernel_manager is None:
            return
        on_kernel = self._records.find({"kernel_id": kernel_id})
        kernel_manager.note_sessions(
            kernel_id,
            tuple(
                RecordedSession(
                    session_id=one.session_id,
                    path=one.path,
                    name=one.name,
                    type=one.type,
                    created_at=one.created_at.isoformat(),
                    version=one.version,
                )
                for one in on_kernel
            ),
        )


@dataclass(eq=False)
class RecordedSessions:
    """Takes over the sessions on kernels that have outlived their server.

    For the tasks of one event loop.
    """

    _context: SessionContext
    _mirror: Mirror
    _lease: Heartbeat

    def begin(self) -> None:
        """Take over what is there, and have sessions recorded from now on."""
        records, authority = self._mirror.records, self._context.authority
        writer = records.on_change
        if writer is None:
            records.on_change = writer = RecordWriter(records, authority)
        is_recorded = authority.begin_records(
            self._context.scope.namespace,
            self._lease.server.lease_seconds,
            # Weakly: a kernel manager may live longer than a session manager.
            _weakly(self._take),
        )
        if not is_recorded:
            records.on_change = None

    def _take(self, found: FoundSessions) -> None:
        writer = self._mirror.records.on_change
        assert isinstance(writer, RecordWriter)
        writer.paused = True
        try:
            self._take_all(found)
        finally:
            writer.paused = False
            self._lease.note_ended(found.former_servers)
        for kernel_id in dict.fromkeys(kernel_id for _, kernel_id, _ in found.sessions):
            writer(kernel_id)

    def _take_all(self, found: FoundSessions) -> None:
        context = self._context
        for session, kernel_id, kernel_name in found.sessions:
            wanted = NewSession(session.path, session.name, session.type)
            created_at = datetime.fromisoformat(session.created_at).astimezone(timezone.utc)
            try:
                record = context.new_record(session.session_id, wanted, kernel_id).replace(
                    kernel_name=kernel_name, created_at=created_at, version=session.version
                )
                record.check()
                self._mirror.adopt(record)
            except (InvalidValue, SessionConflict) as error:
                context.log.warning(
                    "A session on the kernel %s cannot be taken over: %s", kernel_id, error
                )
                continue
            # Later: it calls a method that a subclass may have, whose constructor goes on.
            IOLoop.current().add_callback(self._set_environment, record)

    def _set_environment(self, record: SessionRecord) -> None:
        """Have the kernel restarted, if ever, with the environment of its session."""
        if record.path is None:
            return
        environment = self._context.hooks.get_kernel_env(record.path, record.name)
        self._context.kernel_manager.update_env(kernel_id=str(record.kernel_id), env=environment)


def _weakly(method: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what calls a bound method as long as its object is alive."""
    weak = WeakMethod(method)

    def call(argument: Any) -> None:
        alive = weak()
        if alive is not None:
            alive(argument)

    return call
