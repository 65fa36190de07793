"""One kernel on this machine, which may outlive its server."""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpec, NoSuchKernel
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_server._tz import utcnow
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager

from .provisioner import OutlivingProvisioner

if TYPE_CHECKING:
    from .adoption import FoundKernel
    from .owned_kernels import OwnedKernels


class AssumedBusy(str):
    """The state of a kernel that has not been heard of yet, which may be busy.

    What the kernel says of itself replaces it, so that an answer which comes later can tell.
    """

    __slots__ = ()


class PersistentKernel(ServerKernelManager):
    """A kernel of :class:`.PersistentKernelManager`."""

    #: What this server owns; ``None`` if kernels are to end with it.
    owned: OwnedKernels | None = None
    _asking: Any = None

    @property
    def outlives(self) -> bool:
        """Whether the kernel is recorded, and goes on when this server ends."""
        return isinstance(self.provisioner, OutlivingProvisioner) and self.provisioner.outlives

    async def _async_pre_start_kernel(self, **kwargs: Any) -> Any:
        """Have the kernel outlive this server, if it runs as Jupyter's own do.

        Here, where what fails is the failure of the start: its callers wait for that.
        """
        if self.provisioner is None and self.owned is not None:
            self.kernel_id = self.kernel_id or kwargs.get("kernel_id")
            if self.kernel_id is not None:
                self.provisioner = self._make_provisioner(self.owned)
        return await super()._async_pre_start_kernel(**kwargs)

    async def restart_kernel(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Restart the kernel, and ask anew what it is."""
        await super().restart_kernel(*args, **kwargs)
        if self.outlives:
            self.ask_for_state()

    def _make_provisioner(self, owned: OwnedKernels) -> Any:
        factory = KernelProvisionerFactory.instance(parent=self.parent)
        stock = factory.create_provisioner_instance(self.kernel_id, self.kernel_spec, parent=self)
        return self._own_provisioner(owned) if type(stock) is LocalProvisioner else stock

    def _own_provisioner(self, owned: OwnedKernels) -> OutlivingProvisioner:
        provisioner = OutlivingProvisioner(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
        )
        provisioner.owned = owned
        return provisioner

    def hold(self, found: FoundKernel, owned: OwnedKernels) -> None:
        """Use a kernel that was found running; asks it nothing.

        Raises
        ------
        ProcessLookupError
            If it has just ended.
        OSError
            If that is not known.
        """
        record = found.record
        self.owned = owned
        self.kernel_id = record.kernel_id
        self._hold_specification(record.kernel_name)
        self.load_connection_info(found.connection)  # type: ignore[arg-type]
        # Its ports are not drawn anew.
        self._random_port_names = []
        provisioner = self._own_provisioner(owned)
        provisioner.hold(found)
        self.provisioner = provisioner
        # This server removes the file when the kernel ends. Not before it holds the process: an
        # object that fails to is thrown away, and would take the only way to the kernel along.
        self._connection_file_written = True
        launch: dict[str, Any] = {"kernel_id": record.kernel_id, "env": dict(os.environ)}
        if record.cwd is not None:
            launch["cwd"] = record.cwd
        self._launch_args = launch
        self._attempted_start = True
        self._ready = _done(None)
        # A websocket would wait for the answer of a kernel that is busy for an hour.
        self._kernel_info_future = _done(dict(record.info))
        self.execution_state = AssumedBusy("busy")
        self.reason = ""
        # The time without an owner was no idle time.
        self.last_activity = utcnow()

    def _hold_specification(self, kernel_name: str) -> None:
        try:
            _ = self.kernel_spec
        except NoSuchKernel:
            self.log.warning(
                "The kernel specification %r is not installed any more; its kernel %s runs on, "
                "and cannot be restarted.",
                kernel_name,
                self.kernel_id,
            )
            self._kernel_spec = KernelSpec(display_name=kernel_name)

    def ask_for_state(self) -> None:
        """Ask the kernel for its state; until it answers it is shown as busy."""
        self.stop_asking()
        channel = self._asking = self.connect_shell()
        channel.on_recv(self._on_answer)
        self.session.send(channel, "kernel_info_request")

    def _on_answer(self, frames: list[bytes]) -> None:
        self.stop_asking()
        if isinstance(self.execution_state, AssumedBusy):
            self.execution_state = "idle"
        try:
            _, rest = self.session.feed_identities(frames)
            reply = self.session.deserialize(rest)["content"]
        except (ValueError, KeyError):
            self.log.warning("The answer of the kernel %s cannot be read.", self.kernel_id)
            return
        if self.owned is not None:
            self.owned.note_info(str(self.kernel_id), reply)

    def stop_asking(self) -> None:
        """Wait no longer for the answer to :meth:`ask_for_state`."""
        channel, self._asking = self._asking, None
        if channel is not None and not channel.closed():
            channel.close()

    def detach(self) -> None:
        """Let go of the kernel, which goes on."""
        self.stop_restarter()
        self.stop_asking()
        self._close_control_socket()

    def cleanup_connection_file(self) -> None:
        """Remove the connection file, unless the kernel goes on: it is the way to it."""
        process = getattr(self.provisioner, "process", None) if self.outlives else None
        if process is not None and process.poll() is None:
            return
        super().cleanup_connection_file()


def _done(result: Any) -> Future[Any]:
    """Return a future that has a result; there may be no event loop yet."""
    future: Future[Any] = Future()
    future.set_result(result)
    return future
