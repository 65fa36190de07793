"""The kernel manager for kernels on a gateway that a session is to outlive its server with."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final
from uuid import uuid4

from jupyter_server.gateway import managers as stock
from tornado import web
from traitlets import Bool, default

from ...errors import InvalidValue, SessionStoreError
from ...records import Liveness, check_given
from ..authority import AuthoritySettings, InUseCheck
from . import api
from .api import KernelStatus, no_answer
from .authority import AttachingGatewayAuthority

#: Seconds that a list waits for kernels which the gateway's list does not name; those that are not
#: answered for by then are shown as unknown.
_GRACE: Final = 1.0
#: Seconds that an orderly stop waits for the end of the kernels that nobody uses.
_STOP_TIMEOUT: Final = 5.0


class PersistentGatewayKernelManager(stock.GatewayMappingKernelManager):
    """The kernels of this server's sessions, on a gateway that others use too.

    For the tasks of one event loop. ``kernel_id in manager`` says that this
    server uses a kernel, be it that it started the kernel itself or that a
    session of its namespace names it, started wherever. That ends when the
    gateway itself says that the kernel is gone, and never because something
    else failed: then the kernel is shown as unknown.
    """

    detach_on_stop = Bool(
        True,
        help="""
        Whether an orderly stop of the server leaves the gateway's kernels
        running that sessions use, for the other servers of the namespace and
        for the next start. If not, they are shut down, as Jupyter Server does.
        """,
    ).tag(config=True)

    #: Returns those of some kernels that sessions use; the session manager sets it. Without one,
    #: no kernel is known to be unused.
    in_use_check: InUseCheck | None = None

    def __init__(self, **kwargs: Any) -> None:
        # The stock class has one dict for all its instances.
        self._kernels: dict[str, Any] = {}
        self._started: set[str] = set()
        self._single_requests = api.SingleRequests(self._apply_status)
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]

    def create_kernel_authority(self, settings: AuthoritySettings) -> AttachingGatewayAuthority:
        """Return the gateway as the authority over these kernels."""
        return AttachingGatewayAuthority(self, settings.gateway_name)

    @default("kernel_manager_class")
    def _default_kernel_manager_class(self) -> str:
        return "jupyter_session_store.gateway.PersistentGatewayKernel"

    async def start_kernel(  # type: ignore[override]
        self, *, kernel_id: str | None = None, path: str | None = None, **kwargs: Any
    ) -> str:
        """Start a kernel and return its id.

        Parameters
        ----------
        kernel_id : str, optional
            The id to start it under: never one that is running. The stock
            class attaches to whatever the gateway has under this id, be it
            another user's.
        path : str, optional
            The folder to start it in, as a path of the REST API.
        **kwargs
            As the stock class has them.

        Raises
        ------
        tornado.web.HTTPError
            As the gateway answers; 400 for an id that is not plain.
        """
        # An empty one is none.
        kernel_id = kernel_id or None
        try:
            check_given("kernel_id", kernel_id)
            check_given("kernel_name", kwargs.get("kernel_name"))
        except InvalidValue as error:
            raise web.HTTPError(400, str(error)) from error
        if path is not None:
            kwargs["cwd"] = self.cwd_for_path(path)  # type: ignore[no-untyped-call]
        started: str = await super().start_kernel(  # type: ignore[no-untyped-call]
            kernel_id=kernel_id or str(uuid4()), path=None, **kwargs
        )
        self._started.add(started)
        return started

    def remove_kernel(self, kernel_id: str) -> Any:
        """Take an entry out; nothing happens to the kernel."""
        self._started.discard(kernel_id)
        self._kernel_connections.pop(kernel_id, None)
        return self._kernels.pop(kernel_id, None)

    async def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        """Return a kernel's model, as the gateway had it when it was asked last.

        One that was not answered for has ``"execution_state": "unknown"``.
        """
        kernel: Any = self.get_kernel(str(kernel_id))
        model: dict[str, Any] = kernel.kernel
        return {**model, "execution_state": "unknown"} if kernel.status_unknown else model

    async def attach(self, kernel_id: str) -> Liveness:
        """Ask for one kernel, and use it if it lives.

        The caller has seen that a session of its own namespace names it.
        """
        status = await api.get_status(kernel_id)
        self._apply_status(kernel_id, status)
        return status.liveness

    async def refresh(self, named: Collection[str] = ()) -> dict[str, Liveness] | None:
        """Ask for all kernels of this server, in one request where the gateway lists its own.

        Parameters
        ----------
        named : collection of str
            More kernels to use if they live, which sessions of this namespace name.

        Returns
        -------
        dict or None
            What is known of each now. ``None`` if the gateway did not answer; then all that it
            said before is in doubt.
        """
        held = set(self._kernels)
        wanted = held | set(named)
        if not wanted:
            return {}
        models = await api.list_models()
        if models is None:
            for kernel in self._kernels.values():
                kernel.status_unknown = True
            return None
        missing = []
        for kernel_id in wanted:
            # One that was ended here meanwhile is in the list that came from before.
            ended = kernel_id in held and kernel_id not in self._kernels
            if kernel_id in models and not ended:
                self._apply_status(kernel_id, KernelStatus(Liveness.ALIVE, models[kernel_id]))
            else:
                missing.append(kernel_id)
        known = dict.fromkeys(wanted, Liveness.ALIVE)
        for kernel_id, status in (await self._single_requests.get(missing, _GRACE)).items():
            known[kernel_id] = status.liveness
            if status.liveness is Liveness.UNKNOWN and kernel_id in self._kernels:
                self._kernels[kernel_id].status_unknown = True
        return known

    def _apply_status(self, kernel_id: str, status: KernelStatus) -> None:
        """Take note of what the gateway says of one kernel."""
        kernel = self._kernels.get(kernel_id)
        if status.liveness is Liveness.GONE:
            if kernel is not None:
                self.log.info("The gateway says that the kernel %s is gone.", kernel_id)
                self.remove_kernel(kernel_id)
        elif status.model is None:
            if kernel is not None:
                kernel.status_unknown = True
        elif kernel is None:
            kernel = self.kernel_manager_factory(parent=self, log=self.log)
            kernel.attach(status.model)
            self._kernels[kernel_id] = kernel
            self.log.info("Using the kernel %s, which is on the gateway.", kernel_id)
        else:
            kernel.update_model(status.model)

    async def list_kernels(self, **kwargs: Any) -> list[dict[str, Any]]:
        """Return the models of the kernels that this server uses, after asking the gateway.

        Raises
        ------
        tornado.web.HTTPError
            503 if the gateway did not answer.
        """
        if await self.refresh() is None:
            raise no_answer()
        return [await self.kernel_model(kernel_id) for kernel_id in list(self._kernels)]

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]
        """Let go of the kernels, and shut those down that this server started for nobody.

        With ``detach_on_stop = False`` shut down all that this server uses.
        """
        to_end = await self._unused_kernel_ids() if self.detach_on_stop else set(self._kernels)
        left = [kernel_id for kernel_id in self._kernels if kernel_id not in to_end]
        if to_end:
            end: Any = self.shutdown_kernel
            ends = [asyncio.ensure_future(end(one, now=now)) for one in to_end]
            # To leave a kernel that nobody uses does less harm than a stop that takes long.
            timeout = _STOP_TIMEOUT if self.detach_on_stop else None
            done, late = await asyncio.wait(ends, timeout=timeout)
            for ending in late:
                ending.cancel()
            failed = len(late) + sum(one.cancelled() or one.exception() is not None for one in done)
            if failed:
                self.log.warning(
                    "Could not shut down %d kernel(s). They may go on running.", failed
                )
        for kernel_id in list(self._kernels):
            self.remove_kernel(kernel_id)
        if left:
            self.log.info("%d kernel(s) run on at the gateway, for their sessions.", len(left))

    async def _unused_kernel_ids(self) -> set[str]:
        started = self._started & self._kernels.keys()
        if not started or self.in_use_check is None:
            return set()
        try:
            return started - set(await self.in_use_check(started))
        except SessionStoreError as error:
            self.log.warning("No kernel is shut down, since sessions may use them: %s", error)
            return set()

    def initialize_culler(self) -> None:
        """Refuse to cull: this server cannot see who else uses a kernel."""
        if self.cull_idle_timeout > 0 and not self._initialized_culler:
            self.log.warning(
                "c.MappingKernelManager.cull_idle_timeout is %d here, and has no effect: other "
                "servers may be using the gateway's kernels. Set it at the gateway, which sees "
                "all connections (for jupyter_kernel_gateway as well "
                "c.MappingKernelManager.cull_idle_timeout, for Enterprise Gateway "
                "EG_CULL_IDLE_TIMEOUT).",
                self.cull_idle_timeout,
            )
        self._initialized_culler = True
