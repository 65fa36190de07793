"""What it costs that kernels outlive their server: at a kernel's start, and at a server's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from .databases import Databases
from .peers import OURS, Peer
from .results import Results
from .servers import Client, JupyterServer

#: The two kernel managers.
STOCK_KERNELS: Final = "kernels end with their server"
OUTLIVING: Final = "kernels outlive it"
MEASURES: Final = ("start of a kernel", "create", "rename")
#: Kernels that a server finds again, one of them busy.
FOUND: Final = 20
NONE_FOUND: Final = "start, no kernel found"
ALL_FOUND: Final = f"start, {FOUND} kernels found"


def run_outliving(
    peers: list[Peer], databases: Databases, directory: Path, results: Results, *, quick: bool
) -> None:
    """Ask two servers, which differ in their kernel managers, by turns; then start one anew."""
    (peer,) = (one for one in peers if (one.kind, one.database) == (OURS, "sqlite"))
    rounds, found = (3, 3) if quick else (30, FOUND)
    folders = {name: directory / "outliving" / str(place) for place, name in enumerate(_MANAGERS)}
    servers = {
        name: JupyterServer(
            peer, databases.place("sqlite"), folders[name], outliving=name == OUTLIVING
        )
        for name in _MANAGERS
    }
    with _ended(list(servers.values()), directory):
        for server in servers.values():
            server.start()
        for number in range(rounds + 1):
            for name, server in servers.items():
                _ask(server, number, name, results)
        servers[STOCK_KERNELS].stop()
        _find(servers[OUTLIVING], found, results, rounds=2 if quick else 5)


_MANAGERS: Final = (STOCK_KERNELS, OUTLIVING)


def _ask(server: JupyterServer, number: int, name: str, results: Results) -> None:
    """Start a kernel, put a session on it, rename it, and delete it; the first time untimed."""
    client = server.client()
    started, kernel_seconds = _timed(client, "POST", "/api/kernels", {"name": "python3"})
    body = {"path": f"{number}.ipynb", "name": "", "type": "notebook", "kernel": started}
    session, create_seconds = _timed(client, "POST", "/api/sessions", body)
    where = f"/api/sessions/{session['id']}"
    _, rename_seconds = _timed(client, "PATCH", where, {"path": f"{number}-renamed.ipynb"})
    client("DELETE", where)
    client.close()
    for measure, seconds in zip(
        MEASURES, (kernel_seconds, create_seconds, rename_seconds), strict=True
    ):
        if number:
            results.add("outliving", OURS, "sqlite", f"{name}: {measure}", [1000 * seconds])


def _timed(client: Client, method: str, path: str, body: object) -> tuple[dict[str, str], float]:
    start = time.perf_counter()
    status, answer = client(method, path, body)
    seconds = time.perf_counter() - start
    if status not in (200, 201):
        raise RuntimeError(f"{method} {path} was answered {status}")
    return answer, seconds


def _find(server: JupyterServer, number: int, results: Results, *, rounds: int) -> None:
    """Measure a start up to the first list of sessions, without kernels to find, and with."""
    for title, there in ((NONE_FOUND, 0), (ALL_FOUND, number)):
        client = server.client()
        for place in range(there):
            body = {"path": f"{place}", "name": "", "type": "notebook", "kernel": {"name": ""}}
            _timed(client, "POST", "/api/sessions", body)
        client.close()
        for turn in range(rounds + 1):
            server.stop()
            start = time.perf_counter()
            server.start()
            client = server.client()
            status, listed = client("GET", "/api/sessions")
            seconds = time.perf_counter() - start
            client.close()
            if status != 200 or len(listed) != there:
                raise RuntimeError(f"{len(listed)} sessions were found, and not {there}")
            if turn:
                results.add("outliving", OURS, "sqlite", title, [seconds])


@contextmanager
def _ended(servers: list[JupyterServer], directory: Path) -> Iterator[None]:
    """End the servers at the end, and the kernels that have outlived them."""
    try:
        yield
    finally:
        for server in servers:
            server.stop()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if any(one.startswith(str(directory)) for one in process.cmdline()):
                    os.killpg(process.pid, signal.SIGKILL)
