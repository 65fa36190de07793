"""A server that works for long, through faults of its database, keeps nothing it does not need."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import make_url

from .light import LightUser
from .losing import LosingDatabase
from .parity import LIGHT_KERNEL, add_light_kernel, light_config
from .process import OTHER_KERNEL
from .server import JupyterServer
from .test_local_outages import config_of, is_in_step
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.torture, pytest.mark.timeout(3600)]

#: Serves how many bytes the package, and what it alone uses, has allocated and not given back.
_MODULE = """
import gc
import tracemalloc
from jupyter_server.base.handlers import APIHandler
from sqlalchemy import Engine

_OURS = ("jupyter_session_store", "sqlalchemy", "psycopg", "pymysql")


class Handler(APIHandler):
    def get(self):
        # Which statements it still has compiled is chance: a quarter of a megabyte.
        for engine in [one for one in gc.get_objects() if issubclass(type(one), Engine)]:
            engine.clear_compiled_cache()
        gc.collect()
        # Summed up first: a filter of the snapshot looks at each of a million pieces of memory.
        lines = [
            one
            for one in tracemalloc.take_snapshot().statistics("lineno")
            if any(f"/{name}/" in one.traceback[0].filename for name in _OURS)
        ]
        most = [f"{one.traceback} {one.size}" for one in lines[:20]]
        self.finish({"bytes": sum(one.size for one in lines), "most": most})


def _jupyter_server_extension_points():
    return [{"module": "allocated"}]


def _load_jupyter_server_extension(app):
    app.web_app.add_handlers(".*$", [(app.base_url + "allocated", Handler)])
"""
#: The connection is not given up in between: it is some files. Compiled statements are kept up to
#: a number, which is reached soon.
_KEPT = """
c.PersistentSessionManager.connection_idle_seconds = 3600
c.PersistentSessionManager.engine_options = {"query_cache_size": 10}
"""
#: Bytes by which it may be more, of what Python and the drivers keep for later.
_LEEWAY = 250_000


@pytest.mark.extended("a soak")
def test_nothing_grows(
    losing: LosingDatabase,
    new_server: Callable[..., JupyterServer],
    rounds: Callable[[int], int],
    seed: int,
) -> None:
    ways = sorted(losing.ways)
    chance = random.Random(seed)
    # What each kind of fault makes once, and keeps, is there after the first of each.
    warm = len(ways)
    number, changes = warm + max(warm, rounds(100)), rounds(40)
    config = light_config(config_of(losing.url, 3))
    server = new_server(
        f"{config}\nc.ServerApp.jpserver_extensions['allocated'] = True\n{_KEPT}",
        environment={"PYTHONTRACEMALLOC": "1"},
    )
    server.add_module("allocated", _MODULE)
    for name in (LIGHT_KERNEL, OTHER_KERNEL):
        add_light_kernel(server, name)
    server.start()
    user = LightUser(server, chance)
    seen: list[tuple[dict[str, Any], int, list[str]]] = []
    for turn in range(number):
        if turn % warm == 0:
            chance.shuffle(ways)
        for _ in range(changes):
            user.change()
        with losing.ways[ways[turn % warm]]():
            for _ in range(3):
                user.change()
        until(lambda: is_in_step(server, losing.database), why="the store has it all")
        if turn in (warm - 1, number - 1):
            seen.append(_rest(server, user, losing))
    (early, threads, files), (late, *end) = seen
    print(
        f"{number} rounds, {user.changes.total()} changes: {early['bytes']:,} bytes after "
        f"{warm}, {late['bytes']:,} at the end"
    )
    assert [threads, files] == end
    assert late["bytes"] < early["bytes"] + _LEEWAY, "\n".join(late["most"])


def _rest(
    server: JupyterServer, user: LightUser, losing: LosingDatabase
) -> tuple[dict[str, Any], int, list[str]]:
    """Delete all sessions, and return what the server has left: memory, threads, files."""
    for one in list(user.sessions):
        assert server.delete(one.session_id).status_code == 204
    user.sessions.clear()
    until(lambda: server.kernels() == [], why="no kernel is left")
    until(lambda: is_in_step(server, losing.database), why="the store has nothing")
    process = psutil.Process(server.pid)
    left = until(lambda: _settled(process, losing), why="it is at rest")
    assert left is not None
    # Beside other tests it takes long.
    allocated = server.api.get("/allocated", timeout=600)
    return (server.model(allocated, 200), *left)


def _settled(process: psutil.Process, losing: LosingDatabase) -> tuple[int, list[str]] | None:
    """Return how many threads there are, and what is open of the database, if that stays."""
    first, second = ((process.num_threads(), _open(process, losing)) for _ in range(2))
    return first if first == second else None


def _open(process: psutil.Process, losing: LosingDatabase) -> list[str]:
    """Return what a process has open of its database: what its kernels leave is not ours."""
    url = make_url(losing.url)
    if url.port is None:
        folder = str(Path(str(url.database)).parent)
        return sorted(one.path for one in process.open_files() if one.path.startswith(folder))
    return [
        str(one.raddr.port) for one in process.net_connections() if one.raddr[1:] == (url.port,)
    ]
