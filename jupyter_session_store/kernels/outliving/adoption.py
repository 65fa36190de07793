"""Finding kernels that no server owns any more: which are adopted, ended, or let alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging import Logger
from pathlib import Path
from typing import Any, Final

from .folder import KernelFolder, UnsafeFile, read_safely
from .kernel_lock import KernelLock
from .kernel_process import ProcessMark, end, find_by_argument
from .kernel_record import BadRecord, KernelRecord

#: Seconds for which a start waits for the end of a server that has let go of its kernels.
DETACHED_PATIENCE: Final = 5.0
_PAUSE: Final = 0.05
#: Seconds that a kernel is given to end by itself, and then once more until it is killed.
END_PATIENCE: Final = 5.0
_DAY: Final = 86_400.0
_PORTS: Final = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


@dataclass(frozen=True)
class FoundKernel:
    """A running kernel that nobody owned, with its lock, which this process has now."""

    record: KernelRecord
    lock: KernelLock
    process: ProcessMark
    #: What its connection file says.
    connection: dict[str, Any]


@dataclass(eq=False)
class Search:
    """Looks for kernels without an owner. For one thread.

    Parameters
    ----------
    folder : KernelFolder
    namespace : str
        Whose kernels may be adopted.
    place : str
        Where the searching server is served.
    patience : float
        Seconds for which a kernel of another place is left to the next server there.
    detached_days : float
        Days after which a kernel without an owner is ended, whosever it is.
    """

    folder: KernelFolder
    namespace: str
    place: str
    patience: float
    detached_days: float
    log: Logger
    clock: Callable[[], float] = time.monotonic
    #: Since when kernels of other places have been seen without an owner.
    _unowned_since: dict[str, float] = field(default_factory=dict)
    #: The kernels that were complained of.
    _warned: set[str] = field(default_factory=set)
    #: The servers of this namespace that have ended: a kernel that they had is without an owner.
    former_servers: set[str] = field(default_factory=set)

    def find_at_start(self) -> list[FoundKernel]:
        """Return the kernels that this server's predecessor left: they are its own at once.

        Ends none, which takes time. A predecessor that is just ending is waited for, some
        seconds at most: JupyterLab disposes of what a first list lacks.
        """
        deadline = time.monotonic() + DETACHED_PATIENCE
        found = []
        for kernel_id in self.folder.kernel_ids():
            with self._left_alone_if_unknown(kernel_id):
                record = self._read(kernel_id)
                if record is None or not self._is_of_place(record) or self._is_expired(record):
                    continue
                while record.detached and self._has_owner(record) and time.monotonic() < deadline:
                    time.sleep(_PAUSE)
                if not self._has_owner(record):
                    found.append(self._take(kernel_id, may_end=False))
        return [one for one in found if one is not None]

    def _is_of_place(self, record: KernelRecord) -> bool:
        return (record.namespace, record.place) == (self.namespace, self.place)

    def find(self, besides: Collection[str] = (), *, is_at_place: bool) -> list[FoundKernel]:
        """Return the kernels to adopt by now, and end those that are due; blocks.

        Parameters
        ----------
        besides : collection of str
            Kernels that this server has already.
        is_at_place : bool
            Whether this server is served at :attr:`place` by now, and so nobody else is.
        """
        found = []
        ids = [one for one in self.folder.kernel_ids() if one not in besides]
        for kernel_id in ids:
            with self._left_alone_if_unknown(kernel_id):
                record = self._read(kernel_id)
                if record is not None and self._is_due(record, is_at_place):
                    found.append(self._take(kernel_id))
        known = self._unowned_since
        self._unowned_since = {one: known[one] for one in ids if one in known}
        return [one for one in found if one is not None]

    def count_foreign(self) -> int:
        """Return how many kernels of other namespaces run without an owner."""
        count = 0
        for kernel_id in self.folder.kernel_ids():
            record = self._read(kernel_id)
            if record is None or record.namespace == self.namespace or record.process is None:
                continue
            with suppress(OSError):
                count += record.process.is_alive and not record.owner.is_alive
        return count

    @contextmanager
    def _left_alone_if_unknown(self, kernel_id: str) -> Iterator[None]:
        """Leave a kernel as it is if the system does not say how it is: that says nothing."""
        try:
            yield
        except OSError as error:
            self._warn(
                kernel_id, f"The kernel {kernel_id} is left as it is; it is tried again: {error}"
            )

    def _warn(self, kernel_id: str, text: str) -> None:
        """Say once for each kernel what is wrong with it."""
        if kernel_id not in self._warned:
            self._warned.add(kernel_id)
            self.log.warning("%s.", text)

    def _read(self, kernel_id: str) -> KernelRecord | None:
        try:
            return self.folder.read(kernel_id)
        except FileNotFoundError:
            return None
        except (BadRecord, OSError) as error:
            path = self.folder.record_file(kernel_id)
            self._warn(
                kernel_id,
                f"The kernel record {path} is left alone: {error}. If its kernel is not needed any "
                "more, end the kernel and remove the file",
            )
            return None

    def _has_owner(self, record: KernelRecord) -> bool:
        """Return whether the server that a record names runs; takes no lock to know that."""
        return record.owner.is_alive and record.owner.pid != os.getpid()

    def _is_expired(self, record: KernelRecord) -> bool:
        return is_expired(record, self.detached_days, self.clock())

    def _is_due(self, record: KernelRecord, is_at_place: bool) -> bool:
        """Return whether something is to be done with a kernel by now, if nobody owns it."""
        if self._has_owner(record):
            self._unowned_since.pop(record.kernel_id, None)
            return False
        if self._is_expired(record):
            return True
        if record.namespace != self.namespace:
            return False
        if is_at_place and record.place == self.place:
            # Another one was started here at the same time, which had the locks, and has ended
            # because the port was taken.
            return True
        since = self._unowned_since.setdefault(record.kernel_id, self.clock())
        return self.clock() - since >= self.patience

    def _take(self, kernel_id: str, *, may_end: bool = True) -> FoundKernel | None:
        """Take the lock, and see what there is; ``None`` if nothing is left to adopt."""
        try:
            lock = KernelLock.acquire(self.folder.lock_file(kernel_id))
        except OSError as error:
            self.log.warning("The kernel %s cannot be locked: %s.", kernel_id, error)
            return None
        if lock is None:
            return None
        kernel = None
        try:
            # Only now is it certain that nobody else changes it.
            record = self._read(kernel_id)
            if record is not None:
                kernel = self._look_at(record, lock, may_end=may_end)
        finally:
            if kernel is None:
                lock.release()
        return kernel

    def _look_at(
        self, record: KernelRecord, lock: KernelLock, *, may_end: bool
    ) -> FoundKernel | None:
        if record.namespace == self.namespace:
            self.former_servers.update(record.former_servers, [record.server_id])
        process = running_process(record)
        if process is None:
            self.log.info("The kernel %s ended while it had no server.", record.kernel_id)
            remove_traces(self.folder, record)
            return None
        if self._is_expired(record):
            why = f"it had no server for {self.detached_days:g} days (detached_kernel_days)"
        elif record.namespace != self.namespace:
            return None
        else:
            try:
                return FoundKernel(record, lock, process, read_connection(record))
            except UnsafeFile as error:
                self._warn(
                    record.kernel_id, f"The kernel {record.kernel_id} is left alone: {error}"
                )
                return None
            except BadRecord as error:
                why = f"nobody can reach it any more, since {error}"
        if may_end:
            self._end(record, process, why)
        return None

    def _end(self, record: KernelRecord, process: ProcessMark, why: str) -> None:
        self.log.warning("Ending the kernel %s: %s.", record.kernel_id, why)
        if not end_kernel(self.folder, record, process):
            self.log.warning(
                "The kernel %s (process %d) does not end; it is tried again.",
                record.kernel_id,
                process.pid,
            )


def is_expired(record: KernelRecord, days: float, now: float) -> bool:
    """Return whether a kernel was without an owner for too long, at a monotonic time."""
    return now - record.owned_until > days * _DAY


def running_process(record: KernelRecord) -> ProcessMark | None:
    """Return the process of a recorded kernel; ``None`` if it has ended, or never was.

    Call it with the kernel's lock: else a kernel that is being launched is not there yet.
    Raises :class:`OSError` if the system does not say.
    """
    process = record.process
    if process is None:
        process = find_by_argument(record.connection_file)
    return process if process is not None and process.is_own else None


def read_connection(record: KernelRecord) -> dict[str, Any]:
    """Read the connection file of a kernel.

    Raises
    ------
    BadRecord, OSError
        If it is gone, somebody else may have written it, or it lacks the key or a port.
    """
    try:
        text = read_safely(Path(record.connection_file))
    except FileNotFoundError:
        raise BadRecord("its connection file is gone") from None
    except UnsafeFile as error:
        raise UnsafeFile(f"its connection file is not to be trusted: {error}") from None
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("key"), str):
        raise BadRecord("its connection file holds no key")
    if not all(isinstance(found.get(name), int) for name in _PORTS):
        raise BadRecord("its connection file lacks a port")
    return found


def end_kernel(
    folder: KernelFolder,
    record: KernelRecord,
    process: ProcessMark,
    *,
    patience: float = END_PATIENCE,
) -> bool:
    """End a kernel whose lock this process has, and return whether it has ended. Blocks."""
    if not end(process, patience=patience):
        return False
    remove_traces(folder, record)
    return True


def remove_traces(folder: KernelFolder, record: KernelRecord) -> None:
    """Remove the files of a kernel that has ended, its connection file and sockets included."""
    path = Path(record.connection_file)
    if path.name == f"kernel-{record.kernel_id}.json":
        path.unlink(missing_ok=True)
        for number in range(1, len(_PORTS) + 1):
            path.with_name(f"{path.stem}-ipc-{number}").unlink(missing_ok=True)
    folder.remove(record.kernel_id)
