"""JupyterLab in a browser, while the database is away: what its user sees, and what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, expect

from ..databases import Database, Instance
from .browsing import PATIENCE, Lab, browser, code, keep, lab_config, lab_in, notebook, text
from .client import SessionsClient
from .cluster import cluster
from .faults import store_lines
from .rows import rows_of
from .server import JupyterServer
from .test_local_outages import NewServer, config_of, is_in_step
from .test_outages import away
from .waiting import until

__all__ = ["browser"]

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("browsers"),
    pytest.mark.timeout(600),
    pytest.mark.only("postgresql", reason="what a browser sees: with a server that is stopped"),
]

_BEFORE: Final = "x = 41\nx"
_STORY: Final = (
    "Here the database that has the sessions is stopped. Nothing is reloaded, and no cell is run "
    "again."
)
_AFTER: Final = "x + 1"
#: The names of the kernels, as they are shown.
_PYTHON: Final = "Python 3 (ipykernel)"
_OTHER: Final = "Another Python"
_REFUSED: Final = "The session store is unavailable"


def health_of(server: JupyterServer) -> str:
    """Return code that asks a server for the health of its store."""
    return (
        "from http.client import HTTPConnection\n"
        f'server = HTTPConnection("127.0.0.1:{server.port}")\n'
        'server.request("GET", "/api/session-store/health")\n'
        "server.getresponse().read()"
    )


def write_notebooks(root: Path, *names: str, last: str = "x + 2") -> None:
    """Write notebooks whose cells are run before, during, and at last."""
    for name in names:
        cells = code(_BEFORE), text(_STORY), code(_AFTER), code(last)
        (root / name).write_text(notebook(*cells))


def poll(lab: Lab) -> None:
    """Wait until the page has asked for the list of sessions, and has got it."""
    with lab.page.expect_response(
        lambda answer: (
            answer.ok and answer.request.method == "GET" and "/api/sessions?" in answer.url
        )
    ):
        pass


def check_sessions(lab: Lab, server: SessionsClient, database: Database, *paths: str) -> None:
    """Check that there are sessions for these paths, in the page and the store as in the list."""
    listed = [(one["id"], one["path"], one["kernel"]["id"]) for one in server.sessions()]
    assert [path for _, path, _ in listed] == list(paths)
    assert [(row.session_id, row.path, row.kernel_id) for row in rows_of(database)] == listed
    shown = [(one["id"], one["path"], one["kernel"]["id"]) for one in lab.sessions()]
    assert sorted(shown) == sorted(listed)
    # They are in the order of their names.
    expect(lab.running).to_have_text(sorted(paths))


@pytest.mark.torture
def test_nothing_is_seen_of_it_with_local_kernels(
    own_server: Instance,
    new_server: NewServer,
    browser: Browser,
    tmp_path: Path,
    rounds: Callable[[int], int],
) -> None:
    seconds = rounds(60)
    expect.set_options(timeout=PATIENCE)
    database = own_server.create_database()
    server = new_server(config_of(database.url) + lab_config(tmp_path))
    write_notebooks(server.root, "closed.ipynb", "open.ipynb", last=health_of(server))
    server.start()
    with lab_in(browser, tmp_path) as lab:
        lab.page.goto(f"{server.url}/lab/tree/closed.ipynb?token={server.token}")
        lab.expect_kernel(_PYTHON)
        lab.open("open.ipynb")
        lab.expect_kernel(_PYTHON)
        expect(lab.run(0)).to_have_text("41")

        with away(database, own_server, "stop"):
            began = time.monotonic()
            expect(lab.run(1)).to_have_text("42")

            lab.new(_PYTHON)
            lab.expect_kernel(_PYTHON)
            lab.write(0, "6 * 7")
            expect(lab.run(0)).to_have_text("42")
            lab.rename("new.ipynb")
            lab.change_kernel(_OTHER)
            lab.expect_kernel(_OTHER)
            lab.write(0, " + 1")
            expect(lab.run(0)).to_have_text("43")

            lab.show("closed.ipynb")
            lab.close_and_shut_down()
            lab.show("open.ipynb")
            expect(lab.run(2)).to_have_text("""b'{"status": "degraded"}'""")
            poll(lab)
            keep(lab.page, tmp_path / "away.png")
            while time.monotonic() < began + seconds:
                poll(lab)
            for name, kernel in (("new.ipynb", _OTHER), ("open.ipynb", _PYTHON)):
                lab.show(name)
                lab.expect_kernel(kernel)

        until(lambda: is_in_step(server, database), why="the rows are what is listed")
        poll(lab)
        check_sessions(lab, server, database, "open.ipynb", "new.ipynb")
        # Its user has asked for these.
        assert lab.dialogs() == ["Rename File", "Select Kernel", "Shut down the notebook?"]
        assert lab.refusals == []
    assert store_lines(server.log) == ["away", "back"]
    assert server.own_frames() == []
    assert server.uncaught() == []


def be_told(lab: Lab, picture: Path) -> None:
    """See that the page says so, again and again, until its user asks it not to."""
    lab.expect_dialog("Server Connection Error")
    lab.dismiss()
    lab.page.wait_for_function("dialogs.size == 2")
    lab.expect_dialog("Server Connection Error")
    keep(lab.page, picture)
    lab.dialog.get_by_role("checkbox").check()
    lab.dismiss()


def open_in_vain(lab: Lab, name: str) -> None:
    """Open a notebook for which no kernel can be started, until another kernel is offered."""
    lab.open(name)
    lab.expect_dialog("Error Starting Kernel", _REFUSED)
    lab.accept()
    lab.expect_dialog("Select Kernel")


def get_kernel(lab: Lab) -> None:
    """Choose the kernel that is offered first, and use it."""
    lab.accept()
    lab.expect_kernel(_PYTHON)
    expect(lab.run(0)).to_have_text("41")


def lists(server: SessionsClient) -> bool:
    """Return whether a server answers a list of sessions."""
    return server.api.get("/api/sessions").is_success


def test_what_is_seen_of_it_with_a_gateway(
    own_server: Instance, browser: Browser, tmp_path: Path
) -> None:
    expect.set_options(timeout=PATIENCE)
    root = tmp_path / "root"
    root.mkdir()
    names = ("known.ipynb", "open.ipynb", "waiting.ipynb", "later.ipynb")
    write_notebooks(root, *names)
    database = own_server.create_database()
    with (
        cluster(database, root, more=lab_config(tmp_path)) as one,
        lab_in(browser, tmp_path) as lab,
    ):
        lab.page.goto(f"{one.front.url}/lab/tree/known.ipynb?token={one.front.token}")
        for name in names[:2]:
            lab.open(name)
            lab.expect_kernel(_PYTHON)
            expect(lab.run(0)).to_have_text("41")
        lab.show("known.ipynb")
        lab.save("known.ipynb")
        lab.choose("File", "application:close")

        with away(database, own_server, "stop"):
            be_told(lab, tmp_path / "away-gateway.png")
            expect(lab.run(1)).to_have_text("42")

            # The page knows its session.
            lab.open("known.ipynb")
            lab.expect_kernel(_PYTHON)
            expect(lab.run(1)).to_have_text("42")

            open_in_vain(lab, "later.ipynb")
            lab.accept()
            lab.expect_dialog("Error Starting Kernel", _REFUSED)
            lab.accept()
            expect(lab.kernel).to_have_text("No Kernel")

            # What it asks is left open.
            open_in_vain(lab, "waiting.ipynb")

        until(lambda: all(map(lists, one.replicas)), why="it is back")
        get_kernel(lab)

        # By now the page knows that it is back.
        poll(lab)
        lab.show("later.ipynb")
        expect(lab.kernel).to_have_text("No Kernel")
        lab.choose("Kernel", "kernelmenu:reconnect-to-kernel")
        poll(lab)
        expect(lab.kernel).to_have_text("No Kernel")
        lab.kernel.click()
        get_kernel(lab)
        lab.show("open.ipynb")
        expect(lab.run(2)).to_have_text("43")

        one.settle()
        poll(lab)
        check_sessions(lab, one.front, database, *names)
        told, chosen = ["Error Starting Kernel", "Select Kernel"], ["Select Kernel"]
        later = [*told, "Error Starting Kernel"]
        assert lab.dialogs() == 2 * ["Server Connection Error"] + later + told + chosen
        assert {refusal[:4] for refusal in lab.refusals} == {"503 "}
        one.check()
