"""Servers of other hosts, in a namespace that nobody has chosen."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.servers.heartbeat import this_server
from jupyter_session_store.servers.neighbours import NeighbourWatch
from tests.databases.database import Database
from tests.unit.dummies import DummyKernelManager, SharedKernelManager, make_manager

SAID = "uses this server's namespace"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if SAID in one.getMessage()]


def test_a_living_server_of_another_host_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    own = this_server("dir:/srv", "one", 90)
    watch = NeighbourWatch(own, logging.getLogger("test"))
    other = replace(own, server_id="two", hostname="another\nhost", renewals=5)
    watch.look([own, other])
    watch.look([own, other])
    assert warnings(caplog) == [], "it may be this server before its last start"
    watch.look([own, replace(other, renewals=6)])
    watch.look([own, replace(other, renewals=7)])
    (said,) = warnings(caplog)
    assert r"another\nhost" in said
    assert "'dir:/srv'" in said
    assert "c.PersistentSessionManager.namespace" in said


def test_a_server_of_this_host_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    own = this_server("dir:/srv", "one", 90)
    watch = NeighbourWatch(own, logging.getLogger("test"))
    for renewals in range(5):
        beside = replace(own, server_id="two", renewals=renewals)
        watch.look([own, beside, replace(beside, server_id="three", hostname=None)])
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("kernels", "namespace", "told"),
    [
        (SharedKernelManager, None, True),
        (SharedKernelManager, "tenant", False),
        # Sessions on a server's own kernels are in no other server's scope.
        (DummyKernelManager, None, False),
    ],
    ids=["a directory", "a name that was chosen", "local kernels"],
)
async def test_a_second_host_is_told_of_where_it_matters(
    database: Database,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kernels: type[DummyKernelManager],
    namespace: str | None,
    told: bool,
) -> None:
    monkeypatch.delenv("JUPYTERHUB_USER", raising=False)
    chosen: dict[str, Any] = {} if namespace is None else {"namespace": namespace}

    def server(hostname: str) -> PersistentSessionManager:
        monkeypatch.setattr("socket.gethostname", lambda: hostname)
        return make_manager(database.url, kernels(), **chosen)

    async def renewed(manager: PersistentSessionManager) -> None:
        await asyncio.wrap_future(manager.lease.renew_now())

    one, two = server("one"), server("two")
    for _ in range(3):
        await renewed(one)
        await renewed(two)
    assert len(warnings(caplog)) == (2 if told else 0)
    one.close()
    two.close()
