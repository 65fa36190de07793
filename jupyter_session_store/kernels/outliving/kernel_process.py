"""A kernel's process, told apart from every other that had its number, and never signalled else.

A process id is used again. What stays the same for the life of a process, and is another for
the next that gets its number, is when the process was started, in ticks since the machine
was: a time of the day would move when the clock is set.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final, NamedTuple

import psutil

_IS_LINUX: Final[bool] = sys.platform == "linux"
#: Seconds between two looks at a process that is awaited.
_PAUSE: Final = 0.05
#: The field of ``/proc/PID/stat`` with the start in ticks; proc_pid_stat(5) counts from 1.
_START_FIELD: Final = 22
#: What is returned for a process whose exit code only its parent is told.
_UNKNOWN_EXIT_CODE: Final = -1


class ProcessMark(NamedTuple):
    """Which process is meant: its id, and when it was started, in ticks since the boot.

    What asks the system raises :class:`OSError` if that gives no answer, as when this process
    has too many files open: then nothing is known of the process.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """Return the mark of a running process; ``None`` if there is none, or it has ended."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs. A zombie has ended."""
        return _started(self.pid) == self.started

    @property
    def is_own(self) -> bool:
        """Whether the process runs, and is this user's."""
        try:
            uid = psutil.Process(self.pid).uids().real
        except psutil.Error:
            return False
        return uid == os.getuid() and self.is_alive


def _started(pid: int) -> int | None:
    return _started_on_linux(pid) if _IS_LINUX else _started_elsewhere(pid)


def _started_on_linux(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        # One that this user may not read is another user's.
        return None
    # The second field is the program's name in brackets, which may hold anything.
    state, *rest = stat[stat.rindex(b")") + 2 :].split()
    return None if state in (b"Z", b"X") else int(rest[_START_FIELD - 4])


def _started_elsewhere(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() * 1000)
    except psutil.Error:
        return None


class HeldProcess:
    """The face of :class:`subprocess.Popen` for a process that is not this process's child.

    It is held by a file descriptor where the system has that (Linux 5.3 and later), so that
    its number cannot be another's meanwhile.

    Raises
    ------
    ProcessLookupError
        If the process has ended.
    OSError
        If that is not known.
    """

    stdin = stdout = stderr = None

    def __init__(self, mark: ProcessMark) -> None:
        self.pid = mark.pid
        self.returncode: int | None = None
        self._mark = mark
        self._descriptor = _open_descriptor(mark.pid)
        try:
            if not mark.is_alive:
                raise ProcessLookupError(f"process {mark.pid} has ended")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the process, which goes on."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        """Let go of the process."""
        with suppress(AttributeError, OSError):
            self.close()

    def poll(self) -> int | None:
        """Return ``None`` while the process runs, else an exit code, which is not known."""
        if self.returncode is None:
            if self._descriptor is None:
                ended = self._is_known_to_have_ended()
            else:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLIN)
                ended = bool(poll.poll(0))
            if ended:
                self.returncode = _UNKNOWN_EXIT_CODE
                self.close()
        return self.returncode

    def _is_known_to_have_ended(self) -> bool:
        try:
            return not self._mark.is_alive
        except OSError:
            return False

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises :class:`subprocess.TimeoutExpired` after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_PAUSE)
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal to the process; raises ``ProcessLookupError`` if it has ended."""
        if self.poll() is not None:
            raise ProcessLookupError(f"process {self.pid} has ended")
        if self._descriptor is not None and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(self._descriptor, sig)
        else:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Have the system end the process."""
        self.send_signal(signal.SIGKILL)


def _open_descriptor(pid: int) -> int | None:
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        # An old Linux, a sandbox that forbids it, or the process has ended.
        return None


def send_to_group(process: HeldProcess | subprocess.Popen[bytes], sig: int) -> None:
    """Send a signal to a kernel and what it has started, as long as the kernel itself runs.

    A kernel leads its process group. Once it has ended, the group's number may be another's.
    Raises ``ProcessLookupError`` if it has ended.
    """
    if process.poll() is not None:
        raise ProcessLookupError(f"process {process.pid} has ended")
    try:
        leads = os.getpgid(process.pid) == process.pid
    except ProcessLookupError:
        leads = False
    if leads:
        with suppress(PermissionError):
            os.killpg(process.pid, sig)
            return
    process.send_signal(sig)


def find_by_argument(text: str) -> ProcessMark | None:
    """Return this user's process that leads a session and has a text in its arguments.

    Of several it is the one that was started first: who has the name of a kernel's connection
    file has it from the kernel. ``None`` if there is none. Raises :class:`OSError` if a process
    cannot be asked.
    """
    found = []
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                arguments = process.cmdline()
                # In the middle of one, where a shell starts the kernel.
                if not any(text in one for one in arguments):
                    continue
                if process.uids().real != os.getuid() or os.getsid(process.pid) != process.pid:
                    continue
            mark = ProcessMark.of(process.pid)
        except (psutil.Error, ProcessLookupError):
            continue
        if mark is not None:
            found.append(mark)
    return min(found, key=lambda mark: mark.started, default=None)


def end(mark: ProcessMark, *, patience: float) -> bool:
    """End a process and what it has started, and return whether it has ended.

    It is asked first, and given `patience` seconds. Blocks.
    """
    try:
        process = HeldProcess(mark)
    except ProcessLookupError:
        return True
    for sig, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, patience)):
        with suppress(ProcessLookupError):
            send_to_group(process, sig)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return True
    process.close()
    return False
