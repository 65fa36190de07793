"""A real ``jupyter server`` process with the sessions in a database of the test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from jupyter_core.paths import jupyter_config_path
from jupyter_server.extension.config import ExtensionConfigManager

from .client import SessionsClient
from .process import JupyterProcess
from .waiting import until

_OWN_FRAME = re.compile(r'File ".*/jupyter_session_store/(?:sql/)?\w+\.py", line')
_UNCAUGHT = re.compile(
    # So begins what a kernel says of itself, into the server's log: that it was ended half way.
    r"(?<!ERROR:tornado\.general:)Uncaught exception|Unhandled error"
    "|Task exception was never retrieved|Exception in callback"
    # A kernel that is ended while it imports jupyter_client says this of its own exit.
    "|Exception ignored(?! in atexit callback: <function HBChannel)"
    # So does one that is interrupted in a callback, as by the interrupt before a shutdown.
    r"(?!.*\nTraceback .*\n(?:  .*\n)*KeyboardInterrupt)"
    # And one that is interrupted while it makes its event loop.
    r"(?! in: <function BaseEventLoop\.__del__ )"
)

#: Of a configuration: a server that ends says so to the store, however busy the machine is.
TIME_TO_STOP: Final = """
from jupyter_session_store.servers import registered_store
registered_store.CLOSE_TIMEOUT = 60.0
"""
#: The same of a start, where the store is there. One that is away is told after 5 s, as ever.
TIME_TO_START: Final = """
from jupyter_session_store.servers import registered_store
registered_store.OPEN_TIMEOUT = 60.0
"""
#: The same of both, and of a request that waits for the store to take its change.
PATIENT: Final = f"""{TIME_TO_STOP}
from jupyter_session_store.sessions import mirror
mirror.PATIENCE = registered_store.OPEN_TIMEOUT = 60.0
"""

_KERNEL_PORTS = Path(__file__).with_name("kernel_ports.py")

_BASE_CONFIG = """
import runpy
runpy.run_path({ports!r})
c.ServerApp.allow_root = True
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.open_browser = False
c.ServerApp.port = {port}
c.ServerApp.port_retries = 0
c.ServerApp.root_dir = {root!r}
c.ServerApp.session_manager_class = "jupyter_session_store.PersistentSessionManager"
c.ServerApp.terminals_enabled = False
c.IdentityProvider.token = {token!r}
c.ServerApp.jpserver_extensions = {extensions!r}
"""


class JupyterServer(JupyterProcess, SessionsClient):
    """A ``jupyter server`` with this package's session manager, over HTTP and websocket.

    Parameters
    ----------
    config, environment, arguments, prefix, token, fork
        As :class:`.JupyterProcess` has them.
    root : Path, optional
        The root directory, from which the default namespace comes.
    """

    MODULE: ClassVar[str] = "jupyter_server"
    CONFIG_FILE: ClassVar[str] = "jupyter_server_config.py"
    FORKED: ClassVar[bool] = True

    def __init__(
        self,
        config: str = "",
        *,
        root: Path | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        prefix: Sequence[str] = (),
        token: str | None = None,
        fork: bool = True,
    ) -> None:
        self._root = root
        super().__init__(
            config,
            environment=environment,
            arguments=arguments,
            prefix=prefix,
            token=token,
            fork=fork,
        )

    @property
    def root(self) -> Path:
        """The root directory."""
        if self._root is None:
            self._root = self._folder("root")
        return self._root

    def base_config(self) -> str:
        """Return the settings of a server of its own, without the extensions of a front end."""
        manager = ExtensionConfigManager(read_config_path=jupyter_config_path())
        others = manager.get_jpserver_extensions()  # type: ignore[no-untyped-call]
        return _BASE_CONFIG.format(
            port=self.port,
            ports=str(_KERNEL_PORTS),
            root=str(self.root),
            token=self.token,
            extensions={name: name == "jupyter_session_store" for name in others},
        )

    def uncaught(self, start: int = 0) -> list[str]:
        """Return what the log, from a place on, says of errors that nobody caught."""
        return _UNCAUGHT.findall(self.log[start:])

    def own_frames(self) -> list[str]:
        """Return the lines of tracebacks in the log that are this package's.

        Others', such as a kernel's that was ended while it started, say nothing of this one.
        """
        return _OWN_FRAME.findall(self.log)

    def number_of_kernel_processes(self) -> int:
        """Return how many kernels run, once each process that was begun is a kernel's."""
        # Until the system has made it the kernel's, a new process has no command yet.
        until(lambda: len(self.kernel_processes()) >= len(self.kernels()), why="they start")
        return len(self.kernel_processes())
