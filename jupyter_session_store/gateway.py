"""The kernel manager for kernels on a gateway that a session is to outlive its server with."""

from __future__ import annotations

import json
import os
from typing import Any, Final
from uuid import uuid4

from jupyter_server.gateway.gateway_client import GatewayClient, gateway_request
from jupyter_server.gateway.managers import GatewayKernelManager, GatewayMappingKernelManager
from jupyter_server.services.kernels.kernelmanager import emit_kernel_action_event
from jupyter_server.utils import url_escape, url_path_join
from traitlets import default

#: What Enterprise Gateway takes a kernel's id from, among the variables of its environment.
_ID_VARIABLE: Final = "KERNEL_ID"


class PersistentGatewayKernel(GatewayKernelManager):
    """A kernel on a gateway, started under an id that was chosen first."""

    @emit_kernel_action_event(success_msg="Kernel {kernel_id} was started.")
    async def start_kernel(self, **kwargs: Any) -> None:
        """Have the gateway start a kernel.

        Parameters
        ----------
        **kwargs
            As the stock class has them. ``kernel_id`` is the id to start under:
            jupyter_kernel_gateway takes it from the request (with Jupyter
            Server 2.21 or newer), Enterprise Gateway from ``KERNEL_ID``. A
            gateway that knows neither gives the kernel an id of its own, which
            then is this kernel's.

        Raises
        ------
        tornado.web.HTTPError
            As the gateway answers.
        """
        wanted = kwargs["kernel_id"]
        body = {
            "name": kwargs.get("kernel_name") or "python3",
            "env": _environment(kwargs) | {_ID_VARIABLE: wanted},
            "kernel_id": wanted,
        }
        response = await gateway_request(
            self.kernels_url,
            method="POST",
            headers={"Content-Type": "application/json"},
            body=json.dumps(body),
        )
        self.kernel = json.loads(response.body)
        self.kernel_id = str(self.kernel["id"])
        self.kernel_url = url_path_join(self.kernels_url, url_escape(self.kernel_id))
        if self.kernel_id != wanted:
            self.log.warning(
                "The gateway started the kernel %s and not %s, as it was asked to: a server "
                "that is killed at this moment leaves such a kernel behind. With "
                "jupyter_kernel_gateway, update its jupyter_server to 2.21 or newer.",
                self.kernel_id,
                wanted,
            )


def _environment(kwargs: dict[str, Any]) -> dict[str, str]:
    """Return the variables that go to the gateway: the stock manager's choice."""
    client = GatewayClient.instance()
    environ = {**os.environ, **kwargs.get("env", {})}
    if "KERNEL_USERNAME" not in os.environ and client.http_user:
        environ["KERNEL_USERNAME"] = client.http_user
    allowed = (client.allowed_envs or "").split(",")
    chosen = {k: v for k, v in environ.items() if k.startswith("KERNEL_") or k in allowed}
    if kwargs.get("cwd") is not None:
        chosen.setdefault("KERNEL_WORKING_DIR", kwargs["cwd"])
    return chosen


class PersistentGatewayKernelManager(GatewayMappingKernelManager):
    """The kernels of this server's sessions, on a gateway that others use too."""

    #: Kernels are started under ids that the caller chooses.
    chooses_ids: Final = True

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
            As the gateway answers.
        """
        if path is not None:
            kwargs["cwd"] = self.cwd_for_path(path)  # type: ignore[no-untyped-call]
        started: str = await super().start_kernel(  # type: ignore[no-untyped-call]
            kernel_id=kernel_id or str(uuid4()), path=None, **kwargs
        )
        return started
