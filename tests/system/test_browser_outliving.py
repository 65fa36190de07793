"""JupyterLab in a browser, whose only server ends, and is started again, under a running cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Locator, expect

from ..databases import Database
from .browsing import PATIENCE, browser, code, keep, lab_config, lab_in, notebook, text
from .conftest import stored_in
from .outliving import OutlivingServer
from .waiting import until

__all__ = ["browser"]

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("browsers"),
    pytest.mark.timeout(300),
    pytest.mark.only(
        "sqlite", "postgresql", reason="what a browser sees: with a file and with a server"
    ),
]

_NAME: Final = "outlives.ipynb"
_BEFORE: Final = "x = 41\nx"
#: Until the test has seen enough.
_COUNT: Final = """
import os, time
n = 0
while not os.path.exists("enough"):
    n += 1
    print(n, end=" ")
    time.sleep(0.5)
""".strip()
_STORY: Final = (
    "While the cell above counts, the server is ended with `kill -9`, and started again. Nothing "
    "is reloaded. What the cell prints while there is no server is lost."
)
_AFTER: Final = "x + 1"
_PYTHON: Final = "Python 3 (ipykernel)"
_TOLD: Final = "Server Connection Error"


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[OutlivingServer]:
    """A running server with JupyterLab."""
    made = OutlivingServer(f"{stored_in(database)}\n{lab_config(tmp_path)}")
    (made.root / _NAME).write_text(
        notebook(code(_BEFORE), code(_COUNT), text(_STORY), code(_AFTER))
    )
    made.start()
    yield made
    print(made.log)
    made.close()


def numbers(output: Locator) -> list[int]:
    """Return what the counting cell shows."""
    return [int(word) for one in output.all_inner_texts() for word in one.split()]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_an_open_notebook_goes_on_when_its_only_server_is_started_again(
    server: OutlivingServer, browser: Browser, tmp_path: Path, how: str
) -> None:
    expect.set_options(timeout=PATIENCE)
    loaded: list[str] = []
    with lab_in(browser, tmp_path, height=640) as lab:
        lab.page.on("load", lambda page: loaded.append(page.url))
        lab.page.goto(f"{server.url}/lab/tree/{_NAME}?token={server.token}")
        lab.expect_kernel(_PYTHON)
        expect(lab.run(0)).to_have_text("41")
        lab.run(1)
        counted = lab.cells.nth(1).locator(".jp-OutputArea-output")
        until(lambda: len(numbers(counted)) > 1, why="it counts")
        (before,) = server.sessions()
        process = server.process_of(before["kernel"]["id"])

        server.end(how)
        # As soon as the page asks for the list of sessions.
        lab.expect_dialog(_TOLD)
        keep(lab.page, tmp_path / f"outliving-{how}-told.png")
        last = numbers(counted)[-1]
        lab.dismiss()
        # It may be told again until the page finds its server.
        lab.page.add_locator_handler(lab.dialog, lambda _: lab.dismiss())
        server.start()
        until(
            lambda: len([one for one in numbers(counted) if one > last]) > 2,
            why="what it prints now arrives",
        )
        prompt = lab.cells.nth(1).locator(".jp-InputPrompt")
        expect(prompt).to_have_text("[*]:")
        (server.root / "enough").touch()
        expect(prompt).to_have_text("[2]:")
        expect(lab.run(2)).to_have_text("42")
        keep(lab.page, tmp_path / f"outliving-{how}.png")

        assert len(loaded) == 1, "the page was reloaded"
        assert set(lab.dialogs()) == {_TOLD}
        (after,) = server.sessions()
        assert (after["id"], after["kernel"]["id"]) == (before["id"], before["kernel"]["id"])
        assert [one["id"] for one in lab.sessions()] == [before["id"]]
        assert server.process_of(after["kernel"]["id"]) == process
    assert server.own_frames() == []
    assert server.uncaught() == []
