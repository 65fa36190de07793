"""The kernels that this server owns: their locks, and what is written of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from logging import Logger
from pathlib import Path
from typing import Any, Final

from ..authority import RecordedSession
from .folder import KernelFolder, can_be_recorded
from .kernel_lock import KernelLock
from .kernel_process import ProcessMark
from .kernel_record import BadRecord, KernelRecord, known_info

#: Bytes above which a kernel's log is cut, and what is left of it then.
LONGEST_LOG: Final = 2**20
_KEPT_OF_LOG: Final = 2**16
#: How many servers may end in one outage of the store until the first of them is forgotten.
_FORMER_SERVERS: Final = 50
#: Seconds after which a record is written again though nothing has changed.
_TOUCH_INTERVAL: Final = 6 * 3600.0
#: How often at least in the time after which a kernel without an owner is ended.
_TOUCHES: Final = 10


@dataclass(frozen=True)
class Owner:
    """The server that owns kernels.

    Parameters
    ----------
    namespace : str
    place : str
        Where it is served.
    server_id : str
    process : ProcessMark
    """

    namespace: str
    place: str
    server_id: str
    process: ProcessMark


@dataclass(eq=False)
class _Owned:
    """A kernel of this server."""

    lock: KernelLock
    record: KernelRecord
    #: Whether the file says something else than :attr:`record`.
    unwritten: bool = True
    #: Whether the kernel is not this server's to use any more: its files go with its process.
    ending: bool = False


class OwnedKernels:
    """What this server writes of its kernels. For one thread.

    Nothing here raises because a file cannot be written: the kernel goes on, the log says
    once what that means, and :meth:`maintain` tries again.
    """

    def __init__(
        self,
        folder: KernelFolder,
        owner: Owner,
        log: Logger,
        *,
        detached_days: float = 7.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.owner = owner
        self._log = log
        self._clock = clock
        # By a record it is counted how long its kernel had no owner.
        self._touch_interval = min(_TOUCH_INTERVAL, detached_days * 86_400 / _TOUCHES)
        self._kernels: dict[str, _Owned] = {}
        #: The sessions on each kernel, which may be known before the kernel is launched, and
        #: after a launch that failed.
        self._sessions: dict[str, tuple[RecordedSession, ...]] = {}
        self._failing = False

    def __contains__(self, kernel_id: str) -> bool:
        owned = self._kernels.get(kernel_id)
        return owned is not None and not owned.ending

    def record_of(self, kernel_id: str) -> KernelRecord | None:
        """Return what is known of a kernel; ``None`` if it is not one of this server's."""
        owned = self._kernels.get(kernel_id)
        return None if owned is None else owned.record

    def is_anothers(self, kernel_id: str) -> bool:
        """Return whether a kernel that this server does not own may run under an id."""
        if kernel_id in self._kernels or not can_be_recorded(kernel_id):
            return False
        try:
            process = self.folder.read(kernel_id).process
            return process is None or process.is_alive
        except FileNotFoundError:
            return False
        except (BadRecord, OSError):
            return True

    def begin_launch(
        self, kernel_id: str, kernel_name: str, connection_file: str, cwd: str | None
    ) -> int | None:
        """Record that a kernel is going to be launched.

        Returns
        -------
        int or None
            A descriptor of its log, which the caller closes. ``None`` if the kernel cannot be
            recorded, and has to end with its server as with any other Jupyter Server.
        """
        owned = self._kernels.get(kernel_id)
        try:
            if owned is None:
                owned = self._take(kernel_id, kernel_name)
            if owned is None:
                return None
            owned.record = owned.record.replace(
                kernel_name=kernel_name,
                # As the kernel has it among its arguments.
                connection_file=os.path.realpath(connection_file),
                cwd=cwd,
                process=None,
                info={},
            )
            self._write(owned)
            descriptor = self.folder.open_log(kernel_id)
        except OSError as error:
            self._kernels.pop(kernel_id, None)
            self._log.warning(
                "The kernel %s ends with this server, because it cannot be recorded in %s: %s. "
                "Free that file system, or make the folder writable.",
                kernel_id,
                self.folder.path,
                error.strerror or error,
            )
            if owned is not None:
                self.folder.remove(kernel_id)
                owned.lock.release()
            return None
        self._kernels[kernel_id] = owned
        return descriptor

    def _take(self, kernel_id: str, kernel_name: str) -> _Owned | None:
        if not can_be_recorded(kernel_id):
            return None
        lock = KernelLock.acquire(self.folder.lock_file(kernel_id))
        if lock is None:
            return None
        if self.folder.record_file(kernel_id).exists():
            # Another kernel of this id, which nobody owns just now.
            lock.release()
            return None
        owner = self.owner
        record = KernelRecord(
            kernel_id=kernel_id,
            kernel_name=kernel_name,
            namespace=owner.namespace,
            place=owner.place,
            server_id=owner.server_id,
            owner=owner.process,
            process=None,
            connection_file="",
            cwd=None,
            sessions=self._sessions.get(kernel_id, ()),
        )
        return _Owned(lock, record)

    def note_launched(self, kernel_id: str, pid: int) -> None:
        """Record the process of a kernel that was launched."""
        owned = self._kernels.get(kernel_id)
        if owned is not None:
            # Of a process that cannot be looked at the arguments tell later that it is meant.
            with suppress(OSError):
                self._change(owned, process=ProcessMark.of(pid))

    def adopt(self, record: KernelRecord, lock: KernelLock, process: ProcessMark) -> None:
        """Own a kernel that was found, with its `lock`, which this process has."""
        owner = self.owner
        owned = _Owned(lock, record)
        self._kernels[record.kernel_id] = owned
        former = dict.fromkeys([*record.former_servers, record.server_id])
        self._change(
            owned,
            process=process,
            former_servers=tuple(former)[-_FORMER_SERVERS:],
            detached=False,
            namespace=owner.namespace,
            place=owner.place,
            server_id=owner.server_id,
            owner=owner.process,
        )

    def note_sessions(self, kernel_id: str, sessions: tuple[RecordedSession, ...]) -> None:
        """Record the sessions on a kernel, now or when it is launched."""
        if sessions:
            self._sessions[kernel_id] = sessions
        else:
            self._sessions.pop(kernel_id, None)
        owned = self._kernels.get(kernel_id)
        if owned is not None and not _same(owned.record.sessions, sessions):
            self._change(owned, sessions=sessions)

    def note_info(self, kernel_id: str, reply: Mapping[str, Any]) -> None:
        """Record a kernel's answer to ``kernel_info_request``."""
        owned = self._kernels.get(kernel_id)
        if owned is not None and (info := known_info(reply)) != owned.record.info:
            self._change(owned, info=info)

    def forget(self, kernel_id: str) -> None:
        """Remove what was written of a kernel, once its process has ended."""
        owned = self._kernels.get(kernel_id)
        if owned is not None:
            owned.ending = True
            self._remove_if_ended(owned)

    def detach(self, kernel_id: str) -> None:
        """Record that this server lets go of a kernel, which is left running, and ends soon."""
        owned = self._kernels.get(kernel_id)
        if owned is not None:
            self._change(owned, detached=True)

    def maintain(self) -> None:
        """Write what could not be written, touch what is old, cut long logs; call now and then."""
        for owned in list(self._kernels.values()):
            if owned.ending:
                self._remove_if_ended(owned)
                continue
            if owned.unwritten or self._clock() - owned.record.owned_until > self._touch_interval:
                self._change(owned)
            with suppress(OSError):
                cut_log(self.folder.log_file(owned.record.kernel_id))

    def _remove_if_ended(self, owned: _Owned) -> None:
        process = owned.record.process
        try:
            if process is not None and process.is_alive:
                return
        except OSError:
            return
        del self._kernels[owned.record.kernel_id]
        self.folder.remove(owned.record.kernel_id)
        owned.lock.release()

    def _change(self, owned: _Owned, **changes: Any) -> None:
        owned.record = owned.record.replace(**changes)
        owned.unwritten = True
        try:
            self._write(owned)
        except OSError as error:
            if not self._failing:
                self._log.warning(
                    "The records of this server's kernels cannot be written in %s: %s. Until they "
                    "can, a server that finds these kernels finds their sessions as they were. "
                    "Free that file system, or make the folder writable.",
                    self.folder.path,
                    error.strerror or error,
                )
            self._failing = True
        else:
            if self._failing:
                self._log.info("The records of this server's kernels can be written again.")
            self._failing = False

    def _write(self, owned: _Owned) -> None:
        owned.record = owned.record.replace(owned_until=self._clock())
        self.folder.write(owned.record)
        owned.unwritten = False


def _same(one: tuple[RecordedSession, ...], other: tuple[RecordedSession, ...]) -> bool:
    """Return whether two say the same of the sessions, however often those were changed."""
    return len(one) == len(other) and all(
        replace(a, version=b.version) == b for a, b in zip(one, other, strict=True)
    )


def cut_log(path: Path, longest: int = LONGEST_LOG) -> None:
    """Cut a log that kernels append to, if it is too long; raises :class:`OSError`.

    What is written at this very moment may be lost, and nothing else of its end.
    """
    if path.stat().st_size <= longest:
        return
    with path.open("r+b") as file:
        file.seek(-_KEPT_OF_LOG, os.SEEK_END)
        end = file.read()
        file.truncate(0)
    with path.open("ab") as file:
        file.write(end)
