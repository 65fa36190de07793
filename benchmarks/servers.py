"""Real servers, each a process of its own, with nothing enabled that the test does not need."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from jupyter_core.paths import jupyter_config_path
from jupyter_server.extension.config import ExtensionConfigManager

from tests.databases.local import free_port

from .databases import Place
from .peers import OURS, Peer

ROOT: Final = Path(__file__).resolve().parent.parent
_KERNEL_PORTS: Final = ROOT / "tests" / "system" / "kernel_ports.py"
#: Seconds.
_START_TIMEOUT: Final = 60
_REQUEST_TIMEOUT: Final = 60

#: What jupyter_server itself requires and enables, and what the package may enable.
_KEPT_EXTENSIONS: Final = ("jupyter_server_terminals", "jupyter_session_store")


class Client:
    """A client with one connection, kept alive."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_TIMEOUT)
        self._headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request; return the status and the decoded answer."""
        data = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, data, self._headers)
            response = self._connection.getresponse()
            text = response.read()
        except Exception:
            self._connection.close()
            raise
        return response.status, json.loads(text) if text else None

    def time(self, method: str, path: str, body: object = None) -> tuple[int, float]:
        """Send a request; return the status and the microseconds that it took."""
        data = None if body is None else json.dumps(body)
        start = time.perf_counter_ns()
        self._connection.request(method, path, data, self._headers)
        response = self._connection.getresponse()
        response.read()
        return response.status, (time.perf_counter_ns() - start) / 1000

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


@dataclass(frozen=True)
class Usage:
    """What a process takes: memory in MiB, and seconds of processor time, its children's too."""

    resident: float
    private: float
    threads: int
    processor: float


class JupyterServer:
    """A `jupyter server` process whose sessions are a peer's.

    Parameters
    ----------
    peer : Peer
        ``stock`` or ``ours``.
    place : Place
        Its database.
    directory : Path
        For its files: a new, empty one.
    dummy_kernels : bool
        Whether kernels cost nothing; else they are the server's own.
    sampler : bool
        Whether the event loop is watched.
    outliving : bool
        Whether kernels outlive the server, which is then started at one port each time.
    """

    def __init__(
        self,
        peer: Peer,
        place: Place,
        directory: Path,
        *,
        dummy_kernels: bool = False,
        sampler: bool = False,
        outliving: bool = False,
    ) -> None:
        self.peer = peer
        self.place = place
        self._directory = directory
        self._token = secrets.token_hex(16)
        self._port = 0
        self._outliving = outliving
        self._process: subprocess.Popen[bytes] | None = None
        found = ExtensionConfigManager(read_config_path=jupyter_config_path())
        extensions = {
            name: False
            for name in found.get_jpserver_extensions()  # type: ignore[no-untyped-call]
            if not name.startswith(_KEPT_EXTENSIONS)
        }
        if sampler:
            extensions["benchmarks.sampler"] = True
        server: dict[str, Any] = {
            "allow_root": True,
            "jpserver_extensions": extensions,
            "open_browser": False,
            "port_retries": 0,
            "root_dir": str(directory / "work"),
        }
        if dummy_kernels:
            server["kernel_manager_class"] = "benchmarks.kernels.DummyKernelManager"
        if outliving:
            manager = "jupyter_session_store.local.PersistentKernelManager"
            server["kernel_manager_class"] = manager
        config: dict[str, Any] = {
            "ServerApp": server,
            "IdentityProvider": {"token": self._token},
            "SessionManager": {"database_filepath": place.text},
        }
        if peer.kind == OURS:
            server["session_manager_class"] = "jupyter_session_store.PersistentSessionManager"
            config["PersistentSessionManager"] = {"namespace": "benchmark"}
        for name in ("work", "config", "data", "runtime"):
            (directory / name).mkdir(parents=True)
        if not dummy_kernels:
            # A kernel whose port another one takes is dead, and would not be found again.
            code = f"import runpy\nrunpy.run_path({str(_KERNEL_PORTS)!r})\n"
            (directory / "config" / "jupyter_server_config.py").write_text(code)
        file = directory / "config" / "jupyter_server_config.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(config))

    def start(self) -> tuple[float, float]:
        """Start the process.

        Returns
        -------
        tuple of float
            Seconds, and seconds of processor time, until the first request was
            answered.
        """
        if not (self._outliving and self._port):
            self._port = free_port()
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "JPY_"))
            and name not in ("PYTHONDONTWRITEBYTECODE", "PYTHONDEVMODE", "COVERAGE_PROCESS_START")
        }
        for name in ("config", "data", "runtime"):
            environment[f"JUPYTER_{name.upper()}_DIR"] = str(self._directory / name)
        environment["PYTHONPATH"] = os.pathsep.join(
            part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part
        )
        log = (self._directory / "log").open("ab")
        start = time.perf_counter()
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", f"--ServerApp.port={self._port}"],
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while True:
            client = self.client()
            try:
                status, _ = client("GET", "/api/status")
            except (ConnectionError, TimeoutError):
                if self._process.poll() is not None or time.perf_counter() - start > _START_TIMEOUT:
                    text = (self._directory / "log").read_text(errors="replace")
                    self.stop()
                    raise RuntimeError(f"The server did not start:\n{text[-4000:]}") from None
                time.sleep(0.002)
                continue
            finally:
                client.close()
            elapsed = time.perf_counter() - start
            if status != 200:
                self.stop()
                raise RuntimeError(f"GET /api/status was answered {status}")
            spent = psutil.Process(self._process.pid).cpu_times()
            return elapsed, spent.user + spent.system

    def usage(self) -> Usage:
        """Return what the process takes now."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        memory, times = process.memory_full_info(), process.cpu_times()
        # What is gone with it, and shared with no other process: the kernel's `Private_*`.
        mib = 1024 * 1024
        return Usage(memory.rss / mib, memory.uss / mib, process.num_threads(), sum(times[:4]))

    def client(self) -> Client:
        """Return a new client."""
        return Client(self._port, self._token)

    def stop(self) -> None:
        """Stop the process. Idempotent."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
