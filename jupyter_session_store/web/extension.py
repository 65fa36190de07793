"""The server extension: what probes and operators ask of the store.

Enabled by the package's own configuration file, and inert where the session
manager in use is another. It says nothing that is a secret: no URL, no
password, and without a login nothing but well or not.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from jupyter_server.auth.decorator import allow_unauthenticated, authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from traitlets.config import Config

from .._version import __version__
from ..authorities import authority_kind
from ..config import SECTION

if TYPE_CHECKING:
    from types import FrameType

    from jupyter_server.serverapp import ServerApp

    from ..manager import PersistentSessionManager

#: Seconds for which one answer of the store serves every probe.
SHARED_SECONDS: Final = 2.0
#: Seconds that the store is waited for.
TIMEOUT: Final = 5.0
_RETRY_AFTER: Final = "5"


class Probe:
    """Asks the store whether it is well, once in a while, however many ask and whoever they are.

    For the tasks of one event loop.
    """

    def __init__(self, manager: PersistentSessionManager) -> None:
        self.manager = manager
        self._asked: asyncio.Task[bool] | None = None
        self._answered = 0.0

    async def is_well(self) -> bool:
        """Return whether the store answers a request for a session."""
        asked = self._asked
        age = time.monotonic() - self._answered
        if asked is None or (asked.done() and age > SHARED_SECONDS):
            asked = self._asked = asyncio.get_running_loop().create_task(self._ask())
        return await asyncio.shield(asked)

    async def _ask(self) -> bool:
        try:
            await asyncio.wait_for(self.manager.ask_store(), TIMEOUT)
        except Exception as error:
            # The store has said so in the log already, once.
            self.manager.log.debug("The session store is unwell: %s", error)
            return False
        else:
            return True
        finally:
            self._answered = time.monotonic()


class _MonitoringHandler(APIHandler):
    #: What a probe asks is no use of the server: an idle one may be culled.
    _track_activity = False
    auth_resource = "sessions"

    def initialize(self, probe: Probe) -> None:
        self.probe = probe

    def reply(self, body: dict[str, Any]) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(body))


class HealthHandler(_MonitoringHandler):
    """``/api/session-store/health``."""

    def _log(self) -> None:
        # Each probe would say again, as an error, what the store has said once.
        self.log.debug("%d %s %s", self.get_status(), self.request.method, self.request.path)

    @allow_unauthenticated
    async def get(self) -> None:
        """Say whether the store is well, and nothing else, to whoever asks."""
        if await self.probe.is_well():
            status = "well"
        elif self.probe.manager.works_without_store:
            # Who restarts a server for this ends kernels, and mends nothing.
            status = "degraded"
        else:
            status = "unwell"
            self.set_status(503)
            self.set_header("Retry-After", _RETRY_AFTER)
        self.reply({"status": status})


class StatusHandler(_MonitoringHandler):
    """``/api/session-store/status``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Describe the store and this server; also while the store is away."""
        manager = self.probe.manager
        answered, revision, sessions = False, None, None
        # What has failed is said in the log already, once.
        with suppress(Exception):
            revision = await asyncio.wait_for(_ask(manager), TIMEOUT)
            answered = True
        with suppress(Exception):
            sessions = await asyncio.wait_for(manager.count_sessions(), TIMEOUT)
        scope, lease, store = manager.scope, manager.lease, manager.store.describe()
        away = lease.away_seconds
        self.reply(
            {
                "well": answered and sessions is not None,
                "away_seconds": None if away is None else round(away, 1),
                "unsynchronized_sessions": manager.sessions.unsynchronized,
                "version": __version__,
                "repository": manager.repository,
                "backend": store.backend,
                "host": store.host,
                "revision": revision,
                "namespace": scope.namespace,
                "authority": authority_kind(scope.authority) or "server",
                "server_id": manager.server_id,
                "lease": {
                    "seconds": lease.server.lease_seconds,
                    "renewed_seconds_ago": round(lease.age, 1),
                    "overdue": lease.overdue,
                },
                "sessions": sessions,
            }
        )


async def _ask(manager: PersistentSessionManager) -> str | None:
    await manager.ask_store()
    return await manager.store.revision()


def _end_in_order(serverapp: ServerApp) -> None:
    """Have SIGINT and SIGHUP end the server as SIGTERM does, though a kernel failed to start.

    JupyterHub's local spawners stop a server with SIGINT. Where no terminal is there to confirm
    it at, Jupyter Server leaves the signal to Python, and then ends without shutting its
    kernels down or closing the store. SIGHUP, which comes when a terminal is closed, it leaves to
    the system. One that is ignored, as under nohup, stays ignored, and another's handler its own.

    The event loop ends the server, not the handler. A handler may run in the middle of a log line,
    and Jupyter Server's begins with a log line of its own. Python's files refuse to write within a
    write (https://docs.python.org/3/library/io.html#reentrancy), and the signal would be lost.
    """
    ends = getattr(serverapp, "_signal_stop", None)
    if threading.current_thread() is not threading.main_thread():
        # Python lets no other set a handler.
        return
    if ends is None or signal.getsignal(signal.SIGTERM) != ends:
        return

    def end(number: int) -> None:
        kernel_manager: Any = serverapp.kernel_manager
        starts: dict[str, Any] = getattr(kernel_manager, "_pending_kernels", {})
        try:
            # jupyter_client wants to shut down the kernels, too, that did not start. Jupyter Server
            # has none of that id, gives up the whole end, and runs on with its kernels.
            for kernel_id, start in list(starts.items()):
                if start.done() and kernel_id not in kernel_manager:
                    del starts[kernel_id]
            ends(number, None)
        except Exception:
            # Else the event loop would go on, with a server that listens no more.
            serverapp.log.exception("The server could not be stopped as usual; it stops now.")
            serverapp.stop()

    def end_soon(number: int, frame: FrameType | None) -> None:
        loop: Any = serverapp.io_loop
        # It wakes a loop that waits, and is safe in a handler. A closed loop's server has ended.
        with suppress(RuntimeError):
            loop.asyncio_loop.call_soon_threadsafe(end, number)

    signal.signal(signal.SIGTERM, end_soon)
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, ends):
        signal.signal(signal.SIGINT, end_soon)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, end_soon)


#: The session manager class of each server as it was configured, before any extension changed it.
_configured: WeakKeyDictionary[ServerApp, type] = WeakKeyDictionary()


def note_configured_class() -> None:
    """Note which session manager class is configured; called before any extension is linked."""
    serverapps = sys.modules.get("jupyter_server.serverapp")
    if serverapps is not None and serverapps.ServerApp.initialized():
        app = serverapps.ServerApp.instance()
        _configured[app] = app.session_manager_class


def _is_ours(kind: type) -> bool:
    return any(base.__module__ == "jupyter_session_store.manager" for base in kind.__mro__)


def _link_jupyter_server_extension(serverapp: ServerApp) -> None:
    """Restore the configured session manager class that another extension has replaced by its own.

    Only a subclass of both, of that extension's class and of this package's: such a one does
    what either needs. Extensions are linked by their names, in alphabetical order.
    """
    wanted, chosen = _configured.get(serverapp), serverapp.session_manager_class
    if wanted is None or wanted is chosen or not _is_ours(wanted):
        return
    if issubclass(wanted, chosen):
        serverapp.update_config(Config(ServerApp={"session_manager_class": wanted}))
        serverapp.log.info(
            "An extension has set c.ServerApp.session_manager_class to %s; it is %s again, as it "
            "was configured, which is a subclass of that.",
            chosen.__name__,
            wanted.__name__,
        )


def _settings_of(serverapp: ServerApp) -> list[str]:
    """Return the names of the settings that are this package's, or have a value for it."""
    config = serverapp.config
    found = [f"c.{SECTION}.{name}" for name in sorted(config.get(SECTION, {}))]
    url = config.get("SessionManager", {}).get("database_filepath")
    # Jupyter Server's own session manager takes the path of a file.
    if isinstance(url, str) and "://" in url:
        found.append("c.SessionManager.database_filepath")
    if os.environ.get("JUPYTER_SESSION_STORE_URL"):
        found.append("JUPYTER_SESSION_STORE_URL")
    if _is_ours(_configured.get(serverapp, object)):
        found.append("c.ServerApp.session_manager_class")
    kernel_manager = getattr(serverapp, "kernel_manager", None)
    if type(kernel_manager).__module__.startswith("jupyter_session_store."):
        # Without this package's session manager no kernel outlives its server.
        found.append("c.ServerApp.kernel_manager_class")
    return found


def _say_what_runs(serverapp: ServerApp) -> None:
    """Say that this package is not used; as a warning, if it is configured."""
    runs = type(serverapp.session_manager)
    settings = _settings_of(serverapp)
    if not settings:
        serverapp.log.debug(
            "jupyter_session_store serves no status: the session manager is %s.", runs.__name__
        )
        return
    serverapp.log.warning(
        "jupyter_session_store is configured (%s) and is not used: the session manager that runs "
        "is %s.%s. Set c.ServerApp.session_manager_class = "
        "'jupyter_session_store.PersistentSessionManager'. If an extension has set the other "
        "class, set a subclass of both, as the guide 'Run it beside another session manager' has "
        "it; or remove these settings.",
        ", ".join(settings),
        runs.__module__,
        runs.__qualname__,
    )


def _load_jupyter_server_extension(serverapp: ServerApp) -> None:
    """Add the handlers, if the server's session manager is this package's."""
    manager: Any = serverapp.session_manager
    # It cannot be one of a module that was never imported.
    module = sys.modules.get("jupyter_session_store.manager")
    if module is None or not isinstance(manager, module.PersistentSessionManager):
        _say_what_runs(serverapp)
        return
    shared = {"probe": Probe(manager)}
    web_app: Any = serverapp.web_app
    web_app.add_handlers(
        ".*$",
        [
            (url_path_join(serverapp.base_url, f"/api/session-store/{name}"), handler, shared)
            for name, handler in (("health", HealthHandler), ("status", StatusHandler))
        ],
    )
    from . import outages

    outages.prepare(web_app)
    _end_in_order(serverapp)
