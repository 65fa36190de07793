"""What the pages read: in a thread of its own, and put together for people and programs alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Final, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine

from ...config.namespaces import hub_path
from ...errors import SessionStoreError
from ...records import ServerRecord, SessionRecord
from ...servers.heartbeat import now
from ...sql.admin import overview
from ...sql.admin.overview import Choice
from ...sql.database import Database
from ...sql.worker import Worker
from .watch import ServerWatch

T = TypeVar("T")

#: Seconds in which the store has to answer.
TIMEOUT: Final = 10.0
#: So many of the silent servers are shown at most where only those are asked for.
MOST_SILENT: Final = 500


class StoreReader:
    """Reads the store for the pages. For the tasks of one event loop.

    Parameters
    ----------
    engine : Engine
        Of a database whose schema fits.
    hub_url : str or None
        Where the hub is, such as ``/``; ``None`` without one.
    log : logging.Logger
    """

    def __init__(self, engine: Engine, hub_url: str | None, log: logging.Logger) -> None:
        self._database = Database(engine, "never", log)
        self._worker = Worker(
            "jupyter_session_store_pages", self._database.release, self._database.cut_if_overdue
        )
        self._watch = ServerWatch()
        self._hub_url = hub_url

    @property
    def name(self) -> str:
        """What may be shown of the database."""
        return self._database.name

    def close(self) -> None:
        """End the thread and the connection."""
        self._worker.stop(TIMEOUT)

    async def _run(self, unit: Callable[[Connection], T]) -> T:
        return await self._worker.run(lambda: self._database.run(unit), TIMEOUT)

    async def look(self) -> None:
        """See which servers have renewed their leases; a store that is away is no error."""
        try:
            leases = await self._run(overview.leases)
        except SessionStoreError:
            self._watch.forget()
        except BaseException:
            # Else every server would be called silent in a while.
            self._watch.forget()
            raise
        else:
            self._watch.look(leases, now())

    async def sessions(self, choice: Choice) -> dict[str, Any]:
        """Return a page of sessions, and how many are chosen, by their states."""
        states, found = await self._run(
            lambda c: (overview.states(c, choice), overview.sessions(c, choice))
        )
        return {
            "total": sum(states.values()),
            "states": states,
            "sessions": [self._session(one) for one in found],
        }

    async def session(
        self, visible: str | None, namespace: str, session_id: str
    ) -> dict[str, Any] | None:
        """Return one session; ``None`` if it is not there, or not to be seen."""
        found = await self._run(lambda c: overview.session(c, visible, namespace, session_id))
        return None if found is None else self._session(found)

    async def servers(self, choice: Choice, *, silent: bool) -> dict[str, Any]:
        """Return a page of servers; only the silent ones, if asked."""
        if silent:
            keys = self._watch.silent(now(), choice.visible)[:MOST_SILENT]
            choice = replace(choice, keys=keys)

        def unit(connection: Connection) -> tuple[int, list[ServerRecord], dict[Any, int]]:
            found = overview.servers(connection, choice)
            counts = overview.sessions_of_servers(connection, found)
            return overview.count_servers(connection, choice), found, counts

        total, found, counts = await self._run(unit)
        return {
            "total": total,
            "liveness": self._watch.count(now(), choice.visible),
            "servers": [self._server(one, counts.get(one.key, 0)) for one in found],
        }

    async def namespaces(self, choice: Choice) -> dict[str, Any]:
        """Return a page of the namespaces that have sessions."""
        total, found = await self._run(
            lambda c: (overview.count_namespaces(c, choice), overview.namespaces(c, choice))
        )
        return {
            "total": total,
            "namespaces": [
                {**one._asdict(), "changed_at": _text_of(one.changed_at)} for one in found
            ],
        }

    def _session(self, record: SessionRecord) -> dict[str, Any]:
        kernel = _kernel_of(record)
        seen = self._watch.of((record.namespace, record.server_id or ""), now())
        return {
            "namespace": record.namespace,
            "session_id": record.session_id,
            "path": record.path,
            "type": record.type,
            "state": record.state,
            "kernel_id": record.kernel_id,
            "kernel_name": record.kernel_name,
            "kernel_state": kernel.get("execution_state"),
            "last_activity": kernel.get("last_activity"),
            "authority": record.authority,
            "server_id": record.server_id,
            "server_liveness": seen.liveness,
            "created_at": _text_of(record.created_at),
            "changed_at": _text_of(record.updated_at),
            "url": self._url_of(record),
        }

    def _server(self, server: ServerRecord, sessions: int) -> dict[str, Any]:
        seen = self._watch.of(server.key, now())
        return {
            "namespace": server.namespace,
            "server_id": server.server_id,
            "hostname": server.hostname,
            "pid": server.pid,
            "version": server.version,
            "started_at": _text_of(server.started_at),
            "lease_seconds": server.lease_seconds,
            "sessions": sessions,
            "liveness": seen.liveness,
            "silent_seconds": None if seen.silent_seconds is None else round(seen.silent_seconds),
        }

    def _url_of(self, record: SessionRecord) -> str | None:
        """Return where the notebook is open, if its user's server is behind the hub."""
        if self._hub_url is None or record.path is None or record.type != "notebook":
            return None
        path = hub_path(record.namespace)
        base = self._hub_url.rstrip("/")
        return None if path is None else f"{base}{path}lab/tree/{quote(record.path)}"


def _kernel_of(record: SessionRecord) -> Mapping[str, Any]:
    # An operator may have edited it.
    with suppress(ValueError, RecursionError):
        found = json.loads(record.kernel_model or "{}")
        if isinstance(found, dict):
            return found
    return {}


def _text_of(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
