"""Launching a kernel so that it outlives its server, and using one that another has launched."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from jupyter_client.connect import LocalPortCache
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from .kernel_process import HeldProcess, send_to_group

if TYPE_CHECKING:
    from .adoption import FoundKernel
    from .owned_kernels import OwnedKernels

#: A kernel that finds this in its environment ends with the process that it names.
_PARENT: str = "JPY_PARENT_PID"


class OutlivingProvisioner(LocalProvisioner):
    """Jupyter's own way to run a kernel on this machine, which records what it launches."""

    #: Set by who makes the provisioner.
    owned: OwnedKernels

    #: Whether the kernel is recorded, and goes on when this server ends.
    outlives: bool = False
    _log: int | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Record that the kernel is going to be launched, once its connection file is written."""
        kwargs = await super().pre_launch(**kwargs)
        km: Any = self.parent
        cwd = kwargs.get("cwd")
        self._log = self.owned.begin_launch(
            self.kernel_id,
            km.kernel_name,
            km.connection_file,
            None if cwd is None else os.fspath(cwd),
        )
        self.outlives = self._log is not None
        if self._log is not None:
            kwargs["independent"] = True
            # A server that was started from a notebook has it, too.
            kwargs["env"].pop(_PARENT, None)
            # A terminal or a pipe that ended with the server would fail what the kernel writes.
            kwargs.setdefault("stdout", self._log)
            kwargs.setdefault("stderr", self._log)
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Launch the kernel, and record its process."""
        try:
            connection = await super().launch_kernel(cmd, **kwargs)
        except BaseException:
            self.owned.forget(self.kernel_id)
            raise
        finally:
            if self._log is not None:
                os.close(self._log)
                self._log = None
        if self.outlives and self.pid is not None:
            self.owned.note_launched(self.kernel_id, self.pid)
        return connection

    def hold(self, found: FoundKernel) -> None:
        """Use a kernel that is running; raises ``ProcessLookupError`` if it has just ended."""
        km: Any = self.parent
        self.process: Any = HeldProcess(found.process)
        self.pid = self.pgid = found.process.pid
        self.ip = km.ip
        self.cwd = found.record.cwd
        self.connection_info = km.get_connection_info()
        self.outlives = True
        # Kept at a restart: an open page goes on with the ports that it has.
        self.ports_cached = True
        if km.transport == "tcp":
            LocalPortCache.instance().currently_used_ports.update(km.ports)

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel and what it has started, as long as the kernel runs."""
        if self.process:
            # As with a child that has ended: there is nobody to tell.
            with suppress(ProcessLookupError):
                send_to_group(self.process, signum)

    async def cleanup(self, restart: bool = False) -> None:
        """Remove what was recorded, unless the kernel is only restarted."""
        await super().cleanup(restart=restart)
        if not restart:
            self.owned.forget(self.kernel_id)
