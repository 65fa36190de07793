"""A kernel record: what a server leaves beside a kernel, for whoever finds the kernel again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from ..authority import RecordedSession
from .kernel_process import ProcessMark

#: Of the files that this release writes, and alone reads.
FORMAT: Final = 1
#: What is kept of a kernel's answer to ``kernel_info_request``.
_INFO: Final = ("protocol_version", "implementation", "implementation_version")


class BadRecord(ValueError):
    """A file that is no record, with what is wrong with it."""


@dataclass(frozen=True)
class KernelRecord:
    """What is known of a kernel beside its connection file.

    No key and no environment: both may hold secrets, and this file is copied in reports.

    Parameters
    ----------
    kernel_id, kernel_name : str
        The kernel, and the kernel specification that it was started from.
    namespace : str
        Whose sessions are on it.
    place : str
        Where the server that owned it is served: the next server there gets it first.
    server_id : str
        That server, as the store names it.
    former_servers : tuple of str
        Those that owned it before, the last at the end: the store may have missed their ends.
    owner : ProcessMark
        The process of that server.
    process : ProcessMark or None
        The kernel's own; ``None`` from before it is launched until it is known.
    detached : bool
        Whether the owner has let go of the kernel, and is about to end.
    connection_file : str
        The path of the file with its ports and its key.
    cwd : str or None
        The folder in which it was started.
    info : mapping
        Of its answer to ``kernel_info_request``; empty while it has not answered.
    owned_until : float
        When it had an owner last, in seconds of the machine's monotonic clock.
    sessions : tuple of RecordedSession
    """

    kernel_id: str
    kernel_name: str
    namespace: str
    place: str
    server_id: str
    owner: ProcessMark
    process: ProcessMark | None
    connection_file: str
    cwd: str | None
    info: Mapping[str, str] = field(default_factory=dict)
    owned_until: float = 0.0
    former_servers: tuple[str, ...] = ()
    detached: bool = False
    sessions: tuple[RecordedSession, ...] = ()

    def replace(self, **changes: Any) -> KernelRecord:
        """Return a copy with `changes`."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps({"format": FORMAT, **asdict(self), "info": dict(self.info)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> KernelRecord:
        """Read the text of a file; raises :class:`BadRecord`."""
        try:
            found = json.loads(text)
        except ValueError:
            raise BadRecord("it is cut off, or not JSON") from None
        if not isinstance(found, dict):
            raise BadRecord("it is not an object")
        version = found.pop("format", None)
        if version != FORMAT:
            raise BadRecord(
                f"it is of format {version!r:.20}, and this release reads format {FORMAT}"
            )
        try:
            return cls(
                **{name: _text(found, name) for name in _TEXTS},
                owner=_mark(found["owner"]),
                process=None if found["process"] is None else _mark(found["process"]),
                cwd=_text(found, "cwd", optional=True),
                info={str(key): str(value) for key, value in found["info"].items()},
                owned_until=float(found["owned_until"]),
                former_servers=tuple(map(str, _list(found, "former_servers"))),
                detached=found["detached"] is True,
                sessions=tuple(map(_session, _list(found, "sessions"))),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRecord(f"a field is missing or wrong ({error})"[:200]) from None


_TEXTS: Final = ("kernel_id", "kernel_name", "namespace", "place", "server_id", "connection_file")


def _text(found: Mapping[str, Any], name: str, *, optional: bool = False) -> Any:
    value = found[name]
    if isinstance(value, str) or (optional and value is None):
        return value
    raise TypeError(name)


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found[name]
    if isinstance(value, list):
        return value
    raise TypeError(name)


def _number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise TypeError("not a positive number")


def _mark(value: Any) -> ProcessMark:
    pid, started = value
    return ProcessMark(_number(pid), _number(started))


def _session(one: Mapping[str, Any]) -> RecordedSession:
    created_at = _text(one, "created_at")
    if datetime.fromisoformat(created_at).tzinfo is None:
        raise ValueError("created_at")
    return RecordedSession(
        session_id=_text(one, "session_id"),
        **{name: _text(one, name, optional=True) for name in ("path", "name", "type")},
        created_at=created_at,
        version=_number(one["version"]),
    )


def known_info(reply: Mapping[str, Any]) -> dict[str, str]:
    """Return what is kept of a kernel's answer to ``kernel_info_request``."""
    return {name: str(reply[name]) for name in _INFO if name in reply}
