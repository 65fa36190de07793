"""A gateway as the authority over its kernels: only its own 404 says that one is gone."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ...records import Liveness, printable
from ..authority import InUseCheck, KernelAuthority
from . import api
from .naming import gateway_authority_of

if TYPE_CHECKING:
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager


class _EscapeRequests(logging.Filter):
    """Escapes what a client gives where Jupyter Server logs that a kernel is to be started."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if record.funcName == "start_kernel" and not record.args:
            record.msg = printable(str(record.msg))
        return True


def escape_requests_in(log: Any) -> None:
    """Have a log escape what a client gives, where its text is Jupyter Server's own."""
    logger = getattr(log, "logger", log)
    if not any(isinstance(one, _EscapeRequests) for one in logger.filters):
        logger.addFilter(_EscapeRequests())


class GatewayAuthority(KernelAuthority):
    """A gateway behind Jupyter Server's own kernel manager.

    That manager cannot use the kernels that other servers have started: the
    gateway is only asked about them.
    """

    is_shared = True
    limitation: str | None = (
        "The kernels are a gateway's, and the kernel manager is Jupyter Server's own: it cannot "
        "use a kernel that another server, or this one before its last start, has started, and "
        "shuts its kernels down when the server stops. Set c.ServerApp.kernel_manager_class = "
        "'jupyter_session_store.gateway.PersistentGatewayKernelManager'."
    )

    def __init__(self, kernel_manager: MappingKernelManager, gateway_name: str) -> None:
        super().__init__(kernel_manager)
        self.name = gateway_authority_of(gateway_name)
        escape_requests_in(kernel_manager.log)
        self._single_requests = api.SingleRequests()

    @property
    def launch_seconds(self) -> float:
        """Longer than the gateway takes, which is told to give up before the client does."""
        from jupyter_server.gateway.gateway_client import GatewayClient

        return 1.5 * float(GatewayClient.instance().request_timeout or 0)

    async def check_liveness(self, kernel_id: str) -> Liveness:
        """Ask the gateway."""
        return (await api.get_status(kernel_id)).liveness

    async def refresh_liveness(self, kernel_ids: Collection[str]) -> Mapping[str, Liveness]:
        """Ask for each kernel that the kernel manager does not hold.

        Jupyter Server's own class asks by itself for what it holds, as often as a
        front end lists the kernels.
        """
        held: Any = self.kernel_manager
        known = {one: Liveness.ALIVE for one in kernel_ids if one in held}
        others = [one for one in kernel_ids if one not in known]
        found = await self._single_requests.get(others, api.TIMEOUT)
        return known | {one: status.liveness for one, status in found.items()}

    async def refuse_without_kernel(self, kernel_id: str) -> None:
        """Take out what the gateway manager registers for a kernel that is not there."""
        kernel = self.kernel_manager.get_kernel(kernel_id)
        if getattr(kernel, "has_kernel", True):
            return
        from jupyter_client.kernelspec import NoSuchKernel

        self.kernel_manager.remove_kernel(kernel_id)
        raise NoSuchKernel(kernel_id)

    async def shut_down(self, kernel_id: str) -> Liveness:
        """Have the gateway shut it down; its 404 says as well that the kernel is gone."""
        return await api.shut_down(kernel_id)

    def start_may_have_begun(self, error: BaseException) -> bool:
        """Say whether the request may have reached the gateway."""
        return api.may_have_arrived(error)

    def start_is_over(self, error: BaseException) -> bool:
        """Say whether the gateway has answered, or was not reached."""
        return api.is_over(error)


class AttachingGatewayAuthority(GatewayAuthority):
    """A gateway behind this package's kernel manager, which uses other servers' kernels too."""

    supports_preassigned_ids = True
    can_attach = True
    limitation = None

    async def refresh_liveness(self, kernel_ids: Collection[str]) -> Mapping[str, Liveness]:
        """Ask for a single kernel, or for all at once."""
        manager: Any = self.kernel_manager
        if len(kernel_ids) == 1:
            (kernel_id,) = kernel_ids
            return {kernel_id: await manager.attach(kernel_id)}
        found: dict[str, Liveness] | None = await manager.refresh(kernel_ids)
        return dict.fromkeys(kernel_ids, Liveness.UNKNOWN) if found is None else found

    def set_in_use_check(self, in_use: InUseCheck) -> None:
        """Have the kernel manager ask, which then detaches from what is in use."""
        weak: Any = weakref.WeakMethod(in_use)

        async def check(kernel_ids: Collection[str]) -> Collection[str]:
            method = weak()
            return kernel_ids if method is None else await method(kernel_ids)

        manager: Any = self.kernel_manager
        manager.in_use_check = check
