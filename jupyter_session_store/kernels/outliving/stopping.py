"""Ending a kernel by hand: with its lock, or through the server that owns it."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from enum import Enum, auto
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from jupyter_core.paths import jupyter_runtime_dir

from .adoption import end_kernel, remove_traces, running_process
from .folder import KernelFolder, UnsafeFile, read_safely
from .kernel_lock import KernelLock
from .kernel_process import ProcessMark

#: Seconds for each answer of a server, which waits for the kernel's end itself.
_ANSWER_TIMEOUT: Final = 30.0


class StopResult(Enum):
    """What has become of a kernel that was to be ended."""

    STOPPED = auto()
    #: It had ended before, and its files are removed.
    HAD_ENDED = auto()
    #: Another process owns it now.
    OWNED = auto()
    #: It was killed, and does not end.
    RUNS_ON = auto()


def stop_detached(folder: KernelFolder, kernel_id: str) -> StopResult:
    """End a kernel that nobody owns, and remove its files. Blocks.

    Raises
    ------
    BadRecord, OSError
        If its record or its lock cannot be used.
    """
    lock = KernelLock.acquire(folder.lock_file(kernel_id))
    if lock is None:
        return StopResult.OWNED
    try:
        # Only now is it certain that nobody else changes it.
        record = folder.read(kernel_id)
        if record.owner.is_alive:
            return StopResult.OWNED
        process = running_process(record)
        if process is None:
            remove_traces(folder, record)
            return StopResult.HAD_ENDED
        ended = end_kernel(folder, record, process)
        return StopResult.STOPPED if ended else StopResult.RUNS_ON
    except FileNotFoundError:
        # Its owner ended it meanwhile, and this has made the lock's file anew.
        folder.remove(kernel_id)
        return StopResult.HAD_ENDED
    finally:
        lock.release()


class OwnerUnreachable(Exception):
    """A server cannot be asked to end its kernel: why, without a token or a URL.

    Parameters
    ----------
    may_pass : bool
        Whether to try again may help.
    """

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


@dataclass(frozen=True)
class OwnerAPI:
    """The REST API of a server on this machine.

    It is asked without a proxy, and is followed nowhere else: the token is for it alone.
    """

    is_secure: bool
    host: str
    port: int | None
    base_url: str
    token: str = field(repr=False)

    @classmethod
    def of(cls, owner: ProcessMark) -> OwnerAPI:
        """Return the API of a running server, from what it says of itself in a file.

        Raises
        ------
        OwnerUnreachable
            If it does not say how, or another program cannot.
        """
        # `list_running_servers` would take a second to import, and removes files of a home's
        # other machines.
        name = f"jpserver-{owner.pid}.json"
        try:
            found = json.loads(read_safely(Path(jupyter_runtime_dir()) / name))
            url, token, pid = found["url"], found["token"], found["pid"]
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except FileNotFoundError:
            raise OwnerUnreachable(f"it has no file {name} in Jupyter's runtime folder") from None
        except UnsafeFile as error:
            raise OwnerUnreachable(f"its file {name} is not to be trusted: {error}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise OwnerUnreachable(f"its file {name} cannot be read") from None
        if pid != owner.pid:
            raise OwnerUnreachable(f"its file {name} is of another process")
        if parts.scheme not in ("http", "https") or not host:
            raise OwnerUnreachable("it listens at a socket")
        if not token or not isinstance(token, str):
            raise OwnerUnreachable("it takes no token, but a password or another login")
        return cls(parts.scheme == "https", host, port, parts.path, token)

    def shut_down(self, kernel_id: str) -> None:
        """Have the server shut its kernel down; raises :class:`OwnerUnreachable`. Blocks."""
        try:
            status = self._request("DELETE", f"api/kernels/{quote(kernel_id, safe='')}")
        except ssl.SSLCertVerificationError:
            raise OwnerUnreachable("this machine does not trust its certificate") from None
        except (OSError, HTTPException) as error:
            raise OwnerUnreachable(
                f"it does not answer ({type(error).__name__})", may_pass=True
            ) from None
        except ValueError:
            # Its text would repeat the token.
            raise OwnerUnreachable("its address or its token cannot be sent") from None
        if status == 404:
            raise OwnerUnreachable("it does not have this kernel, or not yet", may_pass=True)
        if not 200 <= status < 300:
            raise OwnerUnreachable(f"it answers {status}", may_pass=status >= 500)

    def _request(self, method: str, path: str) -> int:
        kind = HTTPSConnection if self.is_secure else HTTPConnection
        connection = kind(self.host, self.port, timeout=_ANSWER_TIMEOUT)
        headers = {"Authorization": f"token {self.token}".encode()}
        try:
            connection.request(method, f"{self.base_url.rstrip('/')}/{path}", headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()
