"""A real JupyterHub, its proxy and the servers of its users."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote

import httpx
import psutil

from ..databases.local import claimed_port
from . import reaper
from .channels import Channels
from .client import Model, SessionsClient
from .node import node_package
from .process import PATIENCE, JupyterProcess
from .waiting import until

#: The last that the Node of Debian 12 and of Ubuntu 24.04 runs.
_PROXY: Final = ("configurable-http-proxy", "5.1")
#: At most so many servers are started.
_SERVERS: Final = 6
#: Seconds. Several start at once, and each is several programs' start.
_PATIENCE: Final = 2 * PATIENCE

_BASE_CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.JupyterHub.db_url = "sqlite:///{folder}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie-secret"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.pid_file = "{folder}/proxy.pid"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/users/{{username}}"
c.Spawner.cmd = [{python!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.start_timeout = c.Spawner.http_timeout = {patience}
# A busy machine is not a failure.
c.LocalProcessSpawner.interrupt_timeout = {patience}
c.Spawner.poll_interval = 1
# Answer when it is done.
c.JupyterHub.tornado_settings = {{
    "slow_spawn_timeout": {patience},
    "slow_stop_timeout": {patience},
}}
c.JupyterHub.services = [{{"name": "operator", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [
    {{
        "name": "operator",
        "services": ["operator"],
        "scopes": [
            "access:servers",
            "admin:users",
            "admin:servers",
            "admin:server_state",
            "proxy",
            "tokens",
        ],
    }}
]
ports = iter({ports!r})


def choose_port(spawner):
    spawner.port = spawner.port or next(ports)


c.Spawner.pre_spawn_hook = choose_port
"""


class Hub(JupyterProcess):
    """A ``jupyterhub`` with configurable-http-proxy, whose users are who they say they are.

    Parameters
    ----------
    config : str
        More for its configuration file.
    """

    MODULE: ClassVar[str] = "jupyterhub"
    CONFIG_FILE: ClassVar[str] = "jupyterhub_config.py"

    def __init__(self, config: str) -> None:
        self._proxy = node_package(*_PROXY).parent / ".bin" / _PROXY[0]
        self._claims = [claimed_port() for _ in range(2 + _SERVERS)]
        super().__init__(config, prefix=[sys.executable, reaper.__file__])

    def base_config(self) -> str:
        """Return the settings of a hub of its own, for tests."""
        hub_port, api_port, *ports = (claim.getsockname()[1] for claim in self._claims)
        return _BASE_CONFIG.format(
            port=self.port,
            hub_port=hub_port,
            api_port=api_port,
            ports=ports,
            folder=self.directory,
            proxy=str(self._proxy),
            python=sys.executable,
            token=self.token,
            patience=int(_PATIENCE),
        )

    def command(self) -> list[str]:
        """Return what is run."""
        return [*super().command(), "--config", str(self.directory / "config" / self.CONFIG_FILE)]

    def start(self) -> None:
        """Start it, again while its proxy takes longer than the 10 s that JupyterHub gives it."""
        for left in (2, 1, 0):
            try:
                super().start()
            except AssertionError:
                if not left or self.log.count("Failed to start proxy") != 3 - left:
                    raise
            else:
                return

    def kill(self) -> None:
        """End it at once, and all that it has started, its servers and its proxy included."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE)
        super().kill()

    def close(self) -> None:
        """End what still runs, and remove the folder."""
        super().close()
        for claim in self._claims:
            claim.close()

    def ask(self, verb: str, path: str, /, *statuses: int, **how: Any) -> Any:
        """Ask the hub's API, as its operator; return the JSON of its answer, if there is any."""
        answer = self.api.request(verb, f"/hub/api{path}", timeout=_PATIENCE, **how)
        assert answer.status_code in statuses, f"{answer.text}\n{self.log[-5000:]}"
        return answer.json() if answer.content else None

    def _answers(self) -> bool:
        if "JupyterHub is now running" not in self.log:
            # The proxy, which is up before, would fill the log with what it cannot reach.
            return False
        try:
            return self.api.get("/hub/api", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


class UserServer(SessionsClient):
    """A user's server, asked by that user, through the hub's proxy.

    Parameters
    ----------
    hub : Hub
    user : str
        A user of the hub.
    token : str
        One of that user's.
    name : str
        Of a named server.
    """

    def __init__(self, hub: Hub, user: str, token: str, name: str = "") -> None:
        self.hub = hub
        self.user = user
        self.token = token
        self.name = name
        self.port = hub.port
        self._user = f"/users/{quote(user)}"
        self._where = f"{self._user}/servers/{name}" if name else f"{self._user}/server"
        # As the hub writes it.
        self.prefix = f"/user/{quote(user, safe='@')}/{name and f'{name}/'}"
        self.api = httpx.Client(
            base_url=f"{hub.url}{self.prefix}",
            headers={"Authorization": f"token {token}"},
            timeout=PATIENCE,
            trust_env=False,
        )

    @property
    def log(self) -> str:
        """What the hub and all that it has started have printed."""
        return self.hub.log

    def start(self) -> None:
        """Have the hub start the server, and wait until it answers."""
        self.hub.ask("POST", self._where, 201)

    def stop(self) -> None:
        """Have the hub stop the server, and wait until it has ended."""
        self.hub.ask("DELETE", self._where, 204)

    def kill(self) -> None:
        """End the server's process with SIGKILL, and wait until the hub has noticed."""
        state = self._state()
        assert state is not None
        psutil.Process(state["state"]["pid"]).kill()
        until(lambda: self._state() is None, why="the hub notices")

    def channels(self, kernel_id: str, *, join: bool = True) -> Channels:
        """Return the websocket of a kernel."""
        address = f"ws://127.0.0.1:{self.port}{self.prefix}api/kernels/{kernel_id}/channels"
        return Channels(address, {"Authorization": f"token {self.token}"}, join=join)

    def close(self) -> None:
        """Close the connections."""
        self.api.close()

    def _state(self) -> Model | None:
        """Return what the hub says of the server, if it runs."""
        state: Model | None = self.hub.ask("GET", self._user, 200)["servers"].get(self.name)
        return state


def documented_file(name: str, page: str = "jupyterhub.md") -> str:
    """Return a configuration file as a guide for operators has it, piece by piece."""
    pieces = re.findall(r"^```python\n# (\S+)\n(.*?)^```", _guide(page), re.DOTALL | re.MULTILINE)
    text = "".join(piece for path, piece in pieces if path == name)
    assert text, f"the guide has no {name}"
    return text


def documented_command(subcommand: str) -> list[str]:
    """Return the arguments of ``jupyter session-store`` for a subcommand, as in the guide."""
    (line,) = re.findall(rf"^\$ jupyter session-store ({subcommand} .*)", _guide(), re.MULTILINE)
    return shlex.split(line)


def _guide(page: str = "jupyterhub.md") -> str:
    folder = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to"
    return (folder / page).read_text(encoding="utf-8")
