"""One kernel on a gateway, and the requests about it that Jupyter Server makes too."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import Any

from jupyter_server.gateway import managers as stock
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.services.kernels.kernelmanager import emit_kernel_action_event
from jupyter_server.utils import url_escape, url_path_join
from tornado import web

from ...records import Liveness
from . import api
from .api import UNANSWERED, no_answer


class PersistentGatewayKernel(stock.GatewayKernelManager):
    """A kernel on a gateway, started under an id that was chosen first, or attached to."""

    #: Whether the gateway could not be asked for it, or did not answer for it, the last time.
    status_unknown: bool = False

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
            "name": kwargs.get("kernel_name")
            or getattr(self.parent, "default_kernel_name", "python3"),
            "env": _environment(kwargs) | {"KERNEL_ID": wanted},
            "kernel_id": wanted,
        }
        response = await _post(self.kernels_url, body)
        self.attach(json.loads(response.body))
        if self.kernel_id != wanted:
            self.log.warning(
                "The gateway started the kernel %s and not %s, as it was asked to: a server "
                "that is killed at this moment leaves such a kernel behind. With "
                "jupyter_kernel_gateway, update its jupyter_server to 2.21 or newer.",
                self.kernel_id,
                wanted,
            )

    def attach(self, model: dict[str, Any]) -> None:
        """Be the kernel of a model that came from the gateway."""
        self.kernel_id = str(model["id"])
        self.kernel_url = url_path_join(self.kernels_url, url_escape(self.kernel_id))
        self.kernel_name = str(model.get("name") or self.kernel_name)
        self.update_model(model)

    def update_model(self, model: dict[str, Any]) -> None:
        """Take note of a model that came from the gateway."""
        self.status_unknown = False
        self.kernel = model
        self.execution_state = model.get("execution_state")
        activity = _moment(model.get("last_activity"))
        if activity is not None:
            self.last_activity = activity
        connections = getattr(self.parent, "_kernel_connections", None)
        if connections is not None:
            connections[self.kernel_id] = int(model.get("connections") or 0)

    async def refresh_model(self, model: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the kernel's model, asked for if it is not given; ``None`` if the kernel is gone.

        Raises
        ------
        tornado.web.HTTPError
            503 if the gateway could not be asked.
        """
        if model is not None:
            self.update_model(model)
            return model
        status = await api.get_status(str(self.kernel_id))
        if status.liveness is Liveness.UNKNOWN:
            self.status_unknown = True
            raise no_answer()
        if status.model is not None:
            self.update_model(status.model)
        elif (remove := getattr(self.parent, "remove_kernel", None)) is not None:
            remove(self.kernel_id)
        return status.model

    @emit_kernel_action_event(success_msg="Kernel {kernel_id} was shutdown.")
    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Have the gateway shut the kernel down; one that it says is gone is a success.

        Raises
        ------
        tornado.web.HTTPError
            As the gateway answers; 503 for a 404 of somebody else.
        """
        try:
            response = await _request(self.kernel_url, method="DELETE")
        except web.HTTPError as error:
            if error.status_code != 404:
                raise
            if (await api.get_status(str(self.kernel_id))).liveness is not Liveness.GONE:
                raise no_answer() from None
        else:
            if response.code != 204:
                # A page, of whoever stands in the gateway's place.
                raise no_answer()

    @emit_kernel_action_event(success_msg="Kernel {kernel_id} was restarted.")
    async def restart_kernel(self, **kwargs: Any) -> None:
        """Have the gateway restart the kernel; raises as :meth:`shutdown_kernel` does."""
        await _post(f"{self.kernel_url}/restart", {})

    @emit_kernel_action_event(success_msg="Kernel {kernel_id} was interrupted.")
    async def interrupt_kernel(self) -> None:
        """Have the gateway interrupt the kernel; raises as :meth:`shutdown_kernel` does."""
        await _post(f"{self.kernel_url}/interrupt", {})


async def _request(url: str, **how: Any) -> Any:
    """Send a request as Jupyter Server does, whose errors tell the gateway's URL to everybody.

    The cause stays: it says whether the request has reached the gateway.
    """
    try:
        # As an attribute of that module, which is where others replace it.
        return await stock.gateway_request(url, **how)  # type: ignore[attr-defined]
    except web.HTTPError as error:
        cause = error.__cause__
        if cause is None:
            raise
        if isinstance(cause, OSError) or error.status_code in UNANSWERED:
            raise no_answer() from cause
        said = str(error.args[0]) if error.args else ""
        raise web.HTTPError(error.status_code, f"The gateway answered: {said[:200]}") from cause
    except OSError as error:
        raise no_answer() from error


async def _post(url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    return await _request(url, method="POST", headers=headers, body=json.dumps(body))


def _moment(text: Any) -> datetime | None:
    """Return the time that a model tells, if it tells one."""
    try:
        # Python before 3.11 does not read the Z.
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)


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
