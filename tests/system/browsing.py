"""JupyterLab in the system's Chromium, and what a user does there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, Response, expect, sync_playwright

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
PATIENCE: Final = 120_000

#: Remembers the title of each dialog of a page, which comes into it after itself.
_WATCH: Final = """
window.dialogs = new Map();
new MutationObserver(() => {
  for (const one of document.querySelectorAll(".jp-Dialog")) {
    const title = one.querySelector(".jp-Dialog-header")?.textContent;
    dialogs.set(one, title || dialogs.get(one) || "");
  }
}).observe(document, {childList: true, subtree: true, characterData: true});
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Return the system's Chromium, without a window."""
    found = [path for path in map(shutil.which, _PROGRAMS) if path is not None]
    assert found, "chromium is not installed: see `make test` in the README"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], args=_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    # Not for more than one test: while it is there, the thread has a running event loop.
    with chromium() as found:
        yield found


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
c.LabApp.expose_app_in_browser = True
"""


def code(source: str) -> dict[str, Any]:
    """Return a cell of code that was never run."""
    return {"cell_type": "code", "execution_count": None, "outputs": [], **_cell(source)}


def text(source: str) -> dict[str, Any]:
    """Return a cell of text."""
    return {"cell_type": "markdown", **_cell(source)}


def _cell(source: str) -> dict[str, Any]:
    return {"metadata": {}, "source": source}


def notebook(*cells: Mapping[str, Any]) -> str:
    """Return a notebook of such cells."""
    numbered = [{**cell, "id": f"cell-{place}"} for place, cell in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    metadata = {"kernelspec": kernel}
    return json.dumps({"cells": numbered, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def run(page: Page, cell: Locator) -> Locator:
    """Run a cell as a user does, and return where its value will appear."""
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    return cell.locator(".jp-OutputArea-executeResult .jp-OutputArea-output")


def keep(page: Page, picture: Path) -> None:
    """Take a picture, for whoever looks at what the tests have left."""
    page.screenshot(path=picture)
    print(f"What the page shows: {picture}")
    kept = os.environ.get("JSS_TEST_ARTIFACTS")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, kept)


class Lab:
    """A page with JupyterLab, worked with as a user does it.

    Parameters
    ----------
    browser : Browser
    height : int
        Of the page, whose width is that of a picture in the documentation.

    Attributes
    ----------
    page : Page
    refusals : list of str
        The requests that were answered with a 5xx, or not at all.
    """

    def __init__(self, browser: Browser, height: int) -> None:
        self.page = browser.new_page(viewport={"width": 960, "height": height})
        self.page.set_default_timeout(PATIENCE)
        self.page.add_init_script(_WATCH)
        self.refusals: list[str] = []
        self.page.on("response", self._note_answer)
        self.page.on("requestfailed", self._note_failure)

    def _note_answer(self, response: Response) -> None:
        if response.status >= 500:
            self.refusals.append(f"{response.status} {_named(response.request)}")

    def _note_failure(self, request: Request) -> None:
        self.refusals.append(f"{request.failure} {_named(request)}")

    @property
    def notebook(self) -> Locator:
        """The notebook in front."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    @property
    def cells(self) -> Locator:
        """The cells of code of the notebook in front."""
        return self.notebook.locator(".jp-CodeCell")

    @property
    def kernel(self) -> Locator:
        """Where the notebook in front names its kernel, and is asked for another."""
        return self.notebook.locator(".jp-Toolbar-kernelName")

    @property
    def dialog(self) -> Locator:
        """The dialog over the page."""
        return self.page.locator(".jp-Dialog")

    def dialogs(self) -> list[str]:
        """Return the titles of all dialogs that there were."""
        titles: list[str] = self.page.evaluate("[...dialogs.values()]")
        return titles

    def sessions(self) -> list[dict[str, Any]]:
        """Return the sessions that the page knows."""
        running = "Array.from(jupyterapp.serviceManager.sessions.running())"
        models: list[dict[str, Any]] = self.page.evaluate(running)
        return models

    @property
    def running(self) -> Locator:
        """The names of the files that the file browser shows as running."""
        items = self.page.locator(".jp-DirListing-item.jp-mod-running")
        return items.locator(".jp-DirListing-itemName")

    def expect_kernel(self, name: str) -> None:
        """Wait until the notebook in front has a kernel of this name that waits for a cell."""
        expect(self.kernel).to_have_text(name)
        # A cell that is run before there is a kernel does nothing.
        idle = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
        expect(self.notebook.locator(idle)).to_be_visible()

    def run(self, place: int) -> Locator:
        """Run a cell of code of the notebook in front; return where its value will appear."""
        return run(self.page, self.cells.nth(place))

    def write(self, place: int, source: str) -> None:
        """Write code into an empty cell of the notebook in front."""
        self.cells.nth(place).locator(".cm-content").click()
        self.page.keyboard.type(source)

    def open(self, name: str) -> None:
        """Open a notebook, and do not wait for its kernel."""
        self.page.locator(".jp-DirListing-item", has_text=name).dblclick()
        expect(self._tab(name)).to_be_visible()

    def show(self, name: str) -> None:
        """Put an open notebook in front."""
        self._tab(name).click()

    def new(self, kernel: str) -> None:
        """Create a notebook."""
        self.page.locator("[data-command='launcher:create']").first.click()
        cards = self.page.locator(".jp-LauncherCard[data-category=Notebook]")
        cards.filter(has_text=kernel).click()
        expect(self._tab("Untitled.ipynb")).to_be_visible()

    def rename(self, name: str) -> None:
        """Give the notebook in front another name."""
        self.choose("File", "docmanager:rename")
        self.dialog.locator("input").fill(name)
        self.accept()
        expect(self._tab(name)).to_be_visible()

    def change_kernel(self, name: str) -> None:
        """Give the notebook in front another kernel."""
        self.kernel.click()
        self.dialog.locator("select").select_option(label=name)
        self.accept()

    def save(self, name: str) -> None:
        """Save the notebook in front, which has this name, and wait until it is saved."""
        self.choose("File", "docmanager:save")
        expect(self._tab(name).and_(self.page.locator(".jp-mod-dirty"))).to_have_count(0)

    def close_and_shut_down(self) -> None:
        """Close the notebook in front, and shut its kernel down."""
        self.choose("File", "filemenu:close-and-cleanup")
        self.accept()

    def choose(self, menu: str, command: str) -> None:
        """Choose a command of a menu."""
        bar = self.page.get_by_role("menubar")
        bar.get_by_role("menuitem", name=menu, exact=True).click()
        self.page.locator(f".lm-Menu [data-command='{command}']").click()

    def expect_dialog(self, title: str, text: str = "") -> None:
        """Wait until there is a dialog of this title, and check what else it says."""
        expect(self.dialog.locator(".jp-Dialog-header")).to_have_text(title)
        expect(self.dialog).to_contain_text(text)

    def accept(self) -> None:
        """Agree to the dialog, which another may follow."""
        self.dialog.locator(".jp-mod-accept").click()

    def dismiss(self) -> None:
        """Close the dialog, which another may follow."""
        self.dialog.locator(".jp-mod-reject").click()

    def _tab(self, name: str) -> Locator:
        return self.page.locator("#jp-main-dock-panel .lm-TabBar-tab", has_text=name)


def _named(request: Request) -> str:
    return f"{request.method} {urlsplit(request.url).path}"


@contextmanager
def lab_in(browser: Browser, folder: Path, height: int = 540) -> Iterator[Lab]:
    """Return a page for JupyterLab; if the test fails, a picture of it is left in a folder."""
    lab = Lab(browser, height)
    try:
        yield lab
    except BaseException:
        print(f"The dialogs: {lab.dialogs()}\nWhat was refused: {lab.refusals}")
        keep(lab.page, folder / "failed.png")
        raise
    lab.page.close()
