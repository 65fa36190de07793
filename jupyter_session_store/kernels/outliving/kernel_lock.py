"""The lock that says which process owns a kernel: held for as long as that process lives."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where these kernels are refused.
    fcntl = None  # type: ignore[assignment]


class KernelLock:
    """A lock on a file (flock(2)). Nobody's clock has a say: the system frees it with its process.

    The descriptor is closed when another program is executed, and in forked children: a lock
    lives as long as any copy of its descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        _held.add(self)

    @classmethod
    def acquire(cls, path: Path) -> KernelLock | None:
        """Take the lock; ``None`` if another process has it.

        Raises
        ------
        OSError
            If the file cannot be opened, or the file system has no locks.
        """
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            if _is_at(descriptor, path):
                return cls(descriptor)
            # The owner removed the file between the two: whoever locks this one owns nothing.
            os.close(descriptor)

    @property
    def is_held(self) -> bool:
        """Whether this process has the lock."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the lock up; may be called again."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        """Give the lock up."""
        self.release()


_held: weakref.WeakSet[KernelLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
