"""Other gateways than the one of the other tests: replicas share their kernels all the same."""

from __future__ import annotations

import fcntl
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

import jupyter_server
import psutil
import pytest

from ..databases import Database
from ..distribution.building import ROOT, install
from .client import Model
from .cluster import Cluster, cluster
from .gateway import Gateway
from .server import JupyterServer
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.torture,
    pytest.mark.extended("other gateways"),
    pytest.mark.timeout(1800),
]

#: What a replica logs where a gateway chose an id itself, so that no row named the kernel before.
_OTHER_ID: Final = "The gateway started the kernel"
_CONNECTION_FILE: Final = re.compile(r"kernel-([\w-]+)\.json")


class AnyGateway(Gateway):
    """A gateway whose kernels are counted by their processes, whether it lists them or not."""

    #: Whether it starts a kernel under the id that it is asked to.
    TAKES_IDS: ClassVar[bool] = jupyter_server.version_info >= (2, 21)
    #: What it answers to a request for its list.
    LIST_STATUS: ClassVar[int] = 200

    def kernels(self) -> list[str]:
        """Return the ids of the kernels that run."""
        ids = []
        for process in self.kernel_processes():
            # One may be ending, while somebody waits for that.
            with suppress(psutil.NoSuchProcess):
                found = _CONNECTION_FILE.search(" ".join(process.cmdline()))
                ids += [found[1]] if found else []
        return ids

    def hosts(self, number: int) -> bool:
        """Return whether so many kernels run."""
        return len(self.kernels()) == number


class QuietKernelGateway(AnyGateway):
    """A ``jupyter kernelgateway`` at its defaults, which keeps its list to itself."""

    LIST_STATUS = 403

    def base_config(self) -> str:
        """Return the settings without which it cannot be reached."""
        return self.quiet_config()


class PlainServer(AnyGateway):
    """A ``jupyter server``, for others' kernels."""

    MODULE = "jupyter_server"
    CONFIG_FILE = "jupyter_server_config.py"

    def base_config(self) -> str:
        """Return the settings of a server with nothing but a token."""
        return f"""
c.ServerApp.allow_root = True
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.open_browser = False
c.ServerApp.port = {self.port}
c.ServerApp.port_retries = 0
c.IdentityProvider.token = {self.token!r}
"""


class QuietEnterpriseGateway(AnyGateway):
    """An Enterprise Gateway that starts kernels beside it, and keeps its list to itself."""

    MODULE = "enterprise_gateway"
    FORKED = False
    CONFIG_FILE = "jupyter_enterprise_gateway_config.py"
    TAKES_IDS = True
    LIST_STATUS = 403

    def base_config(self) -> str:
        """Return the settings of one that may start kernels for root, who runs tests too.

        It gives up a kernel of which another program has taken a port before the kernel did. So
        the ports are none of those that systems choose, nor of those of the servers here.
        """
        return f"""
c.EnterpriseGatewayApp.ip = "127.0.0.1"
c.EnterpriseGatewayApp.port = {self.port}
c.EnterpriseGatewayApp.port_retries = 0
c.EnterpriseGatewayApp.auth_token = {self.token!r}
c.EnterpriseGatewayApp.port_range = "10000..19999"
c.EnterpriseGatewayApp.unauthorized_users = set()
"""

    def command(self) -> list[str]:
        """Return what is run: an interpreter of its own."""
        return [str(enterprise_python()), "-m", self.MODULE]


class EnterpriseGateway(QuietEnterpriseGateway):
    """One that says which kernels it has."""

    LIST_STATUS = 200

    def base_config(self) -> str:
        """Return the settings for that."""
        return super().base_config() + "c.EnterpriseGatewayApp.list_kernels = True\n"


#: It demands pyzmq before 25, which cannot be built for Python 3.13, and clients of clusters
#: that are not used here. So its requirements, those of this release, stand here without either.
_ENTERPRISE_GATEWAY: Final = "jupyter_enterprise_gateway==3.3.0"
_REQUIREMENTS: Final = (
    "jupyter_client>=6.1.12,<7",
    "jupyter_server>=1.7,<2",
    "paramiko>=2.11",
    "pexpect>=4.8",
    "pycryptodomex>=3.9.7",
    "requests>=2.14.2",
    "watchdog>=2.1.3",
    # 7 demands a newer jupyter_client.
    "ipykernel>=6.29,<7",
    # It imports distutils, which Python has no more since 3.12.
    "setuptools",
)


@cache
def enterprise_python() -> Path:
    """Return the interpreter of an environment with Enterprise Gateway, made at the first use.

    Of its own, since it demands older releases of what a server needs here.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = ROOT / ".venvs" / f"enterprise-gateway-{version}"
    folder.parent.mkdir(exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        install(folder, *_REQUIREMENTS)
        return install(folder, "--", "--no-deps", _ENTERPRISE_GATEWAY).python


def outlive(one: Cluster, turn: int) -> None:
    """Let a replica be killed that has created sessions, and the other go on with them."""
    # In turn each of them is the one that ends.
    serving, other = one.replicas[turn % 2], one.replicas[1 - turn % 2]
    # More than one: a single kernel is not asked for by a list.
    ids, kernels = [], []
    for place in range(2):
        session = serving.create(f"{turn}-{place}.ipynb")
        ids.append(session["id"])
        kernels.append(session["kernel"]["id"])
        assert serving.execute(kernels[place], f"x = {place}") == ""
    serving.kill()
    # At once: nobody waits for a lease.
    assert [model["id"] for model in other.sessions()] == ids
    assert sorted(other.kernels()) == sorted(kernels)
    for place, kernel_id in enumerate(kernels):
        assert other.create(f"{turn}-{place}.ipynb")["id"] == ids[place]
        assert other.execute(kernel_id, "print(x)") == f"{place}\n"
    serving.start()
    for replica in one.replicas:
        until(lambda replica=replica: idle(replica) == kernels, why="the states are true")  # type: ignore[misc]
    assert one.settle() == ids
    for session_id in ids:
        assert other.delete(session_id).status_code == 204
    assert one.settle() == []


def idle(replica: JupyterServer) -> list[str]:
    """Return the kernels of sessions that are shown as idle, in the order of the list."""
    shown: list[Model] = [model["kernel"] for model in replica.sessions()]
    return [kernel["id"] for kernel in shown if kernel["execution_state"] == "idle"]


def check_rounds(
    database: Database, root: Path, number: int, new_gateway: type[AnyGateway]
) -> None:
    """Do that so many times with a gateway, and print it."""
    with cluster(database, root, new_gateway=new_gateway) as one:
        answer = one.gateway.api.get("/api/kernels")
        assert answer.status_code == new_gateway.LIST_STATUS, answer.text
        for turn in range(number):
            outlive(one, turn)
        one.check()
        logs = "".join(replica.log for replica in one.replicas)
        assert (_OTHER_ID not in logs) is new_gateway.TAKES_IDS
    print(
        f"{number} rounds of kill with {new_gateway.__name__}: 0 sessions and 0 kernels lost, "
        "0 kernels without a session."
    )


@pytest.mark.only(
    "sqlite",
    "postgresql",
    reason="a shared file and a server: what the store does is shown on each elsewhere",
)
@pytest.mark.parametrize(
    "new_gateway", [QuietKernelGateway, PlainServer, EnterpriseGateway, QuietEnterpriseGateway]
)
def test_a_notebook_outlives_its_replica(
    database: Database,
    tmp_path: Path,
    rounds: Callable[[int], int],
    new_gateway: type[AnyGateway],
) -> None:
    check_rounds(database, tmp_path, rounds(10), new_gateway)
