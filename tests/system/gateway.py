"""A real kernel gateway: where the kernels of a server may run instead of beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from .process import JupyterProcess

_BASE_CONFIG = """
c.KernelGatewayApp.ip = "127.0.0.1"
c.KernelGatewayApp.port = {port}
c.KernelGatewayApp.port_retries = 0
# Of ports, another process may take one before the kernel does.
c.KernelManager.transport = "ipc"
c.KernelGatewayApp.auth_token = {token!r}
"""


class Gateway(JupyterProcess):
    """A ``jupyter kernelgateway``."""

    MODULE: ClassVar[str] = "kernel_gateway"
    CONFIG_FILE: ClassVar[str] = "jupyter_kernel_gateway_config.py"
    FORKED: ClassVar[bool] = True

    def base_config(self) -> str:
        """Return the settings of a gateway that says which kernels it has."""
        listing = "c.JupyterWebsocketPersonality.list_kernels = True\n"
        return self.quiet_config() + listing

    def quiet_config(self) -> str:
        """Return the settings of one that does not say it, as by default."""
        return _BASE_CONFIG.format(port=self.port, token=self.token)

    @property
    def client_config(self) -> str:
        """What a server needs in its configuration file to use this gateway."""
        return f"c.GatewayClient.url = {self.url!r}\nc.GatewayClient.auth_token = {self.token!r}\n"

    def kernels(self) -> list[str]:
        """Return the ids of the kernels that it hosts."""
        answer = self.api.get("/api/kernels")
        assert answer.status_code == 200, answer.text
        models: list[dict[str, Any]] = answer.json()
        return [model["id"] for model in models]

    def hosts(self, number: int) -> bool:
        """Return whether it hosts so many kernels; while it starts one, it fails to list them."""
        answer = self.api.get("/api/kernels")
        return answer.status_code == 200 and len(answer.json()) == number


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A running gateway that the test may stop and start."""
    gateway = Gateway()
    gateway.start()
    yield gateway
    print(gateway.log)
    gateway.close()
