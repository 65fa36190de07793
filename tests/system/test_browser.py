"""JupyterLab in a browser, whose server is killed under an open notebook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, WebSocket, expect

from ..databases import Database
from .browsing import PATIENCE, browser, code, keep, lab_config, notebook, run, text
from .cluster import Cluster, cluster
from .server import JupyterServer

__all__ = ["browser"]

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("browsers"),
    pytest.mark.timeout(300),
    pytest.mark.only(
        "sqlite", "postgresql", reason="what a browser sees: with a shared file and a server"
    ),
]

_BEFORE: Final = "x = 41\nx"
_STORY: Final = (
    "Here the server that connects this page with the kernel is ended with `kill -9`. "
    "Nothing is reloaded, and no cell is run again."
)
_AFTER: Final = "x + 1"


def connected(one: Cluster, kernel_id: str) -> JupyterServer:
    """Return the replica that connects the notebook with its kernel.

    JupyterLab may try more than once, one after another: the last has its websocket.
    """

    def last(replica: JupyterServer) -> str:
        line = f" Connecting to kernel {kernel_id}"
        # They begin with the time.
        return max((text for text in replica.log.splitlines() if line in text), default="")

    return max(one.replicas, key=last)


def channels(sockets: Sequence[WebSocket]) -> WebSocket:
    """Return the page's websocket to its kernel: the newest, which comes first."""
    return next(socket for socket in sockets if "/channels" in socket.url)


def test_an_open_notebook_outlives_its_server(
    database: Database, tmp_path: Path, browser: Browser
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "outlives.ipynb").write_text(notebook(code(_BEFORE), text(_STORY), code(_AFTER)))
    expect.set_options(timeout=PATIENCE)
    with cluster(database, root, more=lab_config(tmp_path)) as one:
        page = browser.new_page(viewport={"width": 960, "height": 420})
        page.set_default_timeout(PATIENCE)
        asked: list[str] = []
        loaded: list[str] = []
        sockets: list[WebSocket] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("load", lambda page: loaded.append(page.url))
        page.on("websocket", lambda socket: sockets.insert(0, socket))
        # Logged in once, at one of them: the cookie is to be good at the other.
        page.goto(f"{one.front.url}/lab/tree/outlives.ipynb?token={one.front.token}")
        cells = page.locator(".jp-Notebook .jp-CodeCell")
        try:
            # A cell that is run before there is a kernel does nothing.
            expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
            expect(run(page, cells.first)).to_have_text("41")
            [before] = one.front.sessions()
            killed = connected(one, before["kernel"]["id"])
            # What is sent before the page has noticed is lost, as with any server.
            with channels(sockets).expect_event("close"):
                killed.kill()
            expect(run(page, cells.last)).to_have_text("42")
        finally:
            keep(page, tmp_path / "outlives.png")
        [after] = one.front.sessions()
        assert (after["id"], after["kernel"]["id"]) == (before["id"], before["kernel"]["id"])
        assert len(loaded) == 1, "the page was reloaded"
        assert [url for url in asked if not url.startswith((one.front.url, "data:", "blob:"))] == []
        page.close()
        one.check()
