"""The half of the session manager that creates: one session a path, and no kernel left over."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from jupyter_client.multikernelmanager import DuplicateKernelError
from jupyter_server.services.sessions.sessionmanager import (
    KernelSessionRecord,
)
from tornado import web

from ..errors import InvalidValue, PathClaimed, StoreUnavailable
from ..records import CLOSING, STARTING, Liveness
from ..telemetry import metrics
from ..telemetry.events import CREATED
from .claiming import SessionClaimer, claim_required
from .models import stored_of_kernel
from .reading import check_texts

_CLAIM_ATTEMPTS: Final = 3
#: Seconds between two looks at a session that another server is creating.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5


class SessionCreator(SessionClaimer):
    """Creates sessions; :class:`.PersistentSessionManager` is what users name."""

    server_id: str
    _creating: dict[str, tuple[object, asyncio.Task[dict[str, Any]]]]

    async def get_or_create_session(
        self,
        path: str,
        name: str | None = None,
        type: str | None = None,
        kernel_name: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Return the session at a path, and create it if there is none.

        However many ask at once for one path, one session is created, and all
        get it. A caller who goes away changes nothing.

        Parameters
        ----------
        path, name, type, kernel_name, kernel_id
            As :meth:`create_session` has them.
        """
        _check_new(path, name, type, kernel_name, kernel_id)
        wish = (kernel_name, kernel_id)
        waited = False
        while (running := self._creating.get(path)) is not None:
            leader_wish, task = running
            if not waited:
                metrics.claim_waits.inc()
                waited = True
            try:
                return dict(await asyncio.shield(task))
            except Exception:
                # The leader's kernel failed. Who wants the same would fail alike.
                if leader_wish == wish:
                    raise
            # Its callback may be still to come, and this would ask a finished task for ever.
            self._forget_creating(path, running)
        task = self._spawn(self._get_or_create(path, name, type, kernel_name, kernel_id))
        leading = self._creating[path] = (wish, task)
        task.add_done_callback(lambda _: self._forget_creating(path, leading))
        return await asyncio.shield(task)

    def _forget_creating(self, path: str, creating: object) -> None:
        if self._creating.get(path) is creating:
            del self._creating[path]

    async def _get_or_create(
        self,
        path: str,
        name: str | None,
        type: str | None,
        kernel_name: str | None,
        kernel_id: str | None,
    ) -> dict[str, Any]:
        # Of this task alone: create_session from Python stays permissive meanwhile.
        claim_required.set(True)
        deadline = self._claim_deadline()
        for _attempt in range(_CLAIM_ATTEMPTS):
            model = await self._model_at(path)
            if model is not None:
                return model
            try:
                return await self.create_session(
                    path=path, name=name, type=type, kernel_name=kernel_name, kernel_id=kernel_id
                )
            except PathClaimed:
                # Another server was first: its session is there, or is being started.
                await self._wait_for_starting(path, deadline)
        raise StoreUnavailable(f"the path {path!r} is held by a session that does not show")

    async def _wait_for_starting(self, path: str, deadline: float) -> None:
        """Wait until no other server is creating a session at a path.

        Only where kernels are a gateway's: those of a server are its own affair.

        Raises
        ------
        StoreUnavailable
            When the time is over.
        """
        if not self._kernels.shared:
            return
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        waited = False
        while True:
            store = await self._current_store()
            holders = await store.find(self.scope, path=path)
            if not any(holder.state == STARTING and holder.claim for holder in holders):
                return
            if loop.time() > deadline:
                raise StoreUnavailable(
                    f"another server has been creating the session at {path!r} for "
                    f"{self.claim_timeout:g} s (c.PersistentSessionManager.claim_timeout)"
                )
            if not waited:
                metrics.claim_waits.inc()
                waited = True
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def create_session(
        self,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_name: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Create a session, with a new kernel or on one that is there, and return its model.

        A second session on a path is allowed, as in the stock manager; the
        first holds the claim.

        Parameters
        ----------
        path, name, type : str, optional
            As in the REST API.
        kernel_name : str, optional
            The kernel specification; the default one if not given.
        kernel_id : str, optional
            A kernel to attach to if the server holds it, else the id to start
            a new one under.

        Raises
        ------
        DuplicateKernelError
            If another create is starting a kernel under this id.
        """
        _check_new(path, name, type, kernel_name, kernel_id)
        session_id = self.new_session_id()
        pending = KernelSessionRecord(session_id=session_id)
        self._pending_sessions.update(pending)
        try:
            model = await self._created(pending, path, name, type, kernel_name, kernel_id)
        finally:
            self._forget_pending(pending)
        self._events.tell(
            CREATED, session_id=session_id, path=path, kernel_id=model["kernel"]["id"]
        )
        return model

    async def _created(
        self,
        pending: KernelSessionRecord,
        path: str | None,
        name: str | None,
        type: str | None,
        kernel_name: str | None,
        kernel_id: str | None,
    ) -> dict[str, Any]:
        session_id: Any = pending.session_id
        if kernel_id is not None and self._uses.is_reserved(kernel_id):
            # Half started, it may be in the kernel manager already.
            raise DuplicateKernelError(f"Kernel already exists: {kernel_id}")
        if kernel_id is not None:
            await self.attach_kernel(kernel_id, ask=True)
        if kernel_id is not None and kernel_id in self.kernel_manager:
            attached = await self._attach(pending, path, name, type, kernel_id)
            if attached is not None:
                return attached
        if self._kernels.shared:
            return await self._create_claimed(pending, path, name, type, kernel_name, kernel_id)
        started = await self._start_kernel(session_id, path, name, type, kernel_name, kernel_id)
        pending.kernel_id = started
        try:
            return await self.save_session(
                session_id, path=path, name=name, type=type, kernel_id=started
            )
        except BaseException:
            await asyncio.shield(self._spawn(self._discard(started)))
            raise
        finally:
            # Until now: who attached before the session was saved would lose the kernel.
            self._uses.release(started)

    async def _attach(
        self,
        pending: KernelSessionRecord,
        path: str | None,
        name: str | None,
        type: str | None,
        kernel_id: str,
    ) -> dict[str, Any] | None:
        """Create a session on a kernel that is there; ``None`` if it ended meanwhile."""
        session_id: Any = pending.session_id
        deadline = self._claim_deadline()
        while True:
            async with self._uses.attaching(kernel_id):
                if kernel_id not in self.kernel_manager:
                    return None
                pending.kernel_id = kernel_id
                try:
                    model = await self.save_session(
                        session_id, path=path, name=name, type=type, kernel_id=kernel_id
                    )
                except web.HTTPError as error:
                    if self._kernels.shared and error.status_code == 404:
                        return None
                    raise
            if not self._kernels.shared:
                return model
            closing = await self._is_closing(kernel_id)
            # Whoever closed the kernel's last session has ended it before the mark went.
            if not closing and await self._kernels.missing(kernel_id) is not Liveness.GONE:
                return model
            # Another server took its session for the last, or has seen this one: which, its
            # mark's end will tell.
            await self._leave(self._new_record(session_id, path, name, type, kernel_id))
            if not closing:
                return None
            await self._outlast_closers(kernel_id, deadline)

    async def _is_closing(self, kernel_id: str) -> bool:
        found = await self._find(kernel_id=kernel_id)
        return any(r.state == CLOSING and r.session_id not in self._unsure for r in found)

    def _claim_deadline(self) -> float:
        """Return when a request that waits from now on for another server gives up."""
        return asyncio.get_running_loop().time() + self.claim_timeout

    async def _outlast_closers(self, kernel_id: str, deadline: float) -> None:
        """Wait while another server closes a session on a kernel.

        Raises
        ------
        StoreUnavailable
            When the time is over.
        """
        while await self._is_closing(kernel_id):
            if asyncio.get_running_loop().time() > deadline:
                raise StoreUnavailable(f"the kernel {kernel_id!r} is being shut down elsewhere")
            await asyncio.sleep(_FIRST_PAUSE)

    async def save_session(
        self,
        session_id: str,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Store a session and return its model.

        It holds the claim to its path unless another session does.

        Raises
        ------
        SessionConflict
            If another session has this id.
        tornado.web.HTTPError
            404 if the kernel is gone; nothing is stored.
        """
        record = self._new_record(session_id, path, name, type, kernel_id)
        try:
            model = await self._model_of(record)
        except KeyError as error:
            raise web.HTTPError(404, f"Session not found: {error}") from error
        record = record.replace(**stored_of_kernel(model["kernel"]))
        await self._add(record)
        self._hold(record)
        return model

    def _forget_pending(self, record: KernelSessionRecord) -> None:
        # By identity: records on one kernel are equal, whichever session they are of.
        records = self._pending_sessions._records
        records[:] = [other for other in records if other is not record]


def _check_new(
    path: str | None,
    name: str | None,
    type: str | None,
    kernel_name: str | None,
    kernel_id: str | None,
) -> None:
    check_texts({"path": path, "name": name, "type": type, "kernel_name": kernel_name})
    check_texts({"kernel_id": kernel_id})
    if kernel_id is not None and ("/" in kernel_id or "\\" in kernel_id):
        # It becomes part of the name of a connection file.
        raise InvalidValue("kernel_id", "contains a slash", "an id without slashes")
