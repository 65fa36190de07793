"""JupyterLab in a browser, whose server is killed under an open notebook."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocket, expect, sync_playwright

from ..databases import Database
from .cluster import Cluster, cluster
from .server import JupyterServer

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("browsers"),
    pytest.mark.timeout(300),
    pytest.mark.only(
        "sqlite", "postgresql", reason="what a browser sees: with a shared file and a server"
    ),
]

_PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

#: Milliseconds. JupyterLab loads for seconds on a busy machine, and waits longer from one try to
#: reach a kernel to the next.
_PATIENCE: Final = 60_000

_BEFORE: Final = "x = 41\nx"
_STORY: Final = (
    "Here the server that connects this page with the kernel is ended with `kill -9`. "
    "Nothing is reloaded, and no cell is run again."
)
_AFTER: Final = "x + 1"


@pytest.fixture
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    found = [path for path in map(shutil.which, _PROGRAMS) if path is not None]
    assert found, "chromium is not installed: see `make test` in the README"
    # Not for more than one test: while it is there, the thread has a running event loop.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=_OPTIONS)
        yield browser
        browser.close()


def lab_config(folder: Path) -> str:
    """Return what has a server serve JupyterLab, which asks nobody but its server.

    The user's settings are in a folder that the replicas share.
    """
    settings = folder / "settings"
    news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    return f"""
c.ServerApp.jpserver_extensions["jupyterlab"] = True
c.LabApp.user_settings_dir = {str(settings)!r}
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
"""


def notebook() -> str:
    """Return a notebook with a cell to run before, and one to run after."""
    code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "outputs": []}
    cells = [
        {**code, "metadata": {}, "id": "before", "source": _BEFORE},
        {"cell_type": "markdown", "metadata": {}, "id": "story", "source": _STORY},
        {**code, "metadata": {}, "id": "after", "source": _AFTER},
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    metadata = {"kernelspec": kernel}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def run(page: Page, cell: Locator) -> Locator:
    """Run a cell as a user does, and return where its value will appear."""
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    return cell.locator(".jp-OutputArea-executeResult .jp-OutputArea-output")


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


def keep(page: Page, folder: Path) -> None:
    """Take a picture, for whoever looks at what the tests have left."""
    picture = folder / "outlives.png"
    page.screenshot(path=picture)
    print(f"The notebook at the end: {picture}")
    kept = os.environ.get("JSS_TEST_ARTIFACTS")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, kept)


def test_an_open_notebook_outlives_its_server(
    database: Database, tmp_path: Path, browser: Browser
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "outlives.ipynb").write_text(notebook())
    expect.set_options(timeout=_PATIENCE)
    with cluster(database, root, more=lab_config(tmp_path)) as one:
        page = browser.new_page(viewport={"width": 960, "height": 420})
        page.set_default_timeout(_PATIENCE)
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
            keep(page, tmp_path)
        [after] = one.front.sessions()
        assert (after["id"], after["kernel"]["id"]) == (before["id"], before["kernel"]["id"])
        assert len(loaded) == 1, "the page was reloaded"
        assert [url for url in asked if not url.startswith((one.front.url, "data:", "blob:"))] == []
        page.close()
        one.check()
