"""The whole of the main job: from the browser to the row, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..databases import Database
from .conftest import Running, stored_in
from .process import OTHER_KERNEL
from .rows import row_of, rows_of
from .server import PATIENT, JupyterServer
from .waiting import until

pytestmark = pytest.mark.system


def test_a_session_from_its_creation_to_its_deletion(shared: Running) -> None:
    server, database = shared.server, shared.database

    session = server.create("a/Über 🚀.ipynb", name="Über")
    session_id, kernel_id = session["id"], session["kernel"]["id"]
    assert session["path"] == "a/Über 🚀.ipynb"
    assert session["notebook"] == {"path": "a/Über 🚀.ipynb", "name": "Über"}
    row = row_of(database, session_id)
    assert row[1:7] == (
        "a/Über 🚀.ipynb",
        "Über",
        "notebook",
        kernel_id,
        "python3",
        "ready",
    )
    assert row.namespace == f"dir:{server.root}"

    assert server.execute(kernel_id, "x = 6\nprint(x * 7)") == "42\n"
    # The server hears of it on a channel of its own, which it may have joined too late.
    until(
        lambda: (
            server.execute(kernel_id, "x") == "6"
            and server.sessions()[0]["kernel"]["execution_state"] == "idle"
        ),
        why="the server knows that the kernel is idle",
    )

    (listed,) = server.sessions()
    got = server.model(server.get(session_id), 200)
    for model in (listed, got):
        assert {**model, "kernel": None} == {**session, "kernel": None}
        assert model["kernel"]["id"] == kernel_id
    assert listed["kernel"]["execution_state"] == "idle"

    renamed = server.model(server.patch(session_id, path="b.py", name="B", type="console"), 200)
    assert renamed["id"] == session_id
    assert renamed["kernel"]["id"] == kernel_id
    assert row_of(database, session_id)[1:5] == ("b.py", "B", "console", kernel_id)
    assert server.execute(kernel_id, "x") == "6", "the kernel is the same one"

    moved = server.model(server.patch(session_id, kernel={"name": OTHER_KERNEL}), 200)
    second = moved["kernel"]["id"]
    assert second != kernel_id
    assert moved["kernel"]["name"] == OTHER_KERNEL
    assert row_of(database, session_id)[4:6] == (second, OTHER_KERNEL)
    assert server.kernels() == [second], "the kernel that it left was its alone"
    assert server.execute(second, "print('x' in dir())") == "False\n"

    third = server.model(server.api.post("/api/kernels", json={"name": "python3"}), 201)["id"]
    moved = server.model(server.patch(session_id, kernel={"id": third}), 200)
    assert moved["kernel"]["id"] == third
    assert row_of(database, session_id)[4:6] == (third, "python3")
    assert server.kernels() == [third]
    assert server.execute(third, "1 + 1") == "2"

    assert server.delete(session_id).status_code == 204
    assert rows_of(database) == []
    assert server.kernels() == []
    assert server.sessions() == []
    assert server.get(session_id).status_code == 404
    until(lambda: not server.kernel_processes(), why="no kernel process is left")


def test_an_orderly_stop_removes_its_sessions_and_a_start_begins_anew(
    server: JupyterServer, database: Database
) -> None:
    # jupyter_server 2.14 gives its event schemas versions that jupyter_events complains of.
    log = server.log.replace("JupyterEventsVersionWarning", "")
    assert "Warning" not in log, "a server that starts has nothing to complain of"
    assert log.count("The session store is ") == 1, log
    first = server.create("a.ipynb")
    server.create("b.ipynb")
    assert len(rows_of(database)) == 2

    server.stop()
    assert rows_of(database) == []

    server.start()
    assert server.sessions() == []
    again = server.create("a.ipynb")
    assert again["id"] != first["id"]
    assert again["kernel"]["id"] != first["kernel"]["id"]
    assert server.execute(again["kernel"]["id"], "print('anew')") == "anew\n"
    assert [row.session_id for row in rows_of(database)] == [again["id"]]


def test_an_orderly_stop_after_a_kernel_that_did_not_start(
    server: JupyterServer, database: Database
) -> None:
    server.create("a.ipynb")
    assert server.post("b.ipynb", kernel={"name": "no-such-kernel"}).status_code == 501
    server.stop()
    assert rows_of(database) == []


def test_sessions_of_a_killed_server_are_not_listed_by_the_next(
    server: JupyterServer, database: Database
) -> None:
    session = server.create("a.ipynb")
    server.kill()
    assert [row.session_id for row in rows_of(database)] == [session["id"]]

    server.start()
    assert server.sessions() == []
    assert server.get(session["id"]).status_code == 404
    again = server.create("a.ipynb")
    assert server.execute(again["kernel"]["id"], "print('anew')") == "anew\n"


def test_servers_of_two_namespaces_see_nothing_of_each_other(
    server: JupyterServer,
    database: Database,
    new_server: Callable[..., JupyterServer],
    tmp_path: Path,
) -> None:
    other = new_server(stored_in(database) + PATIENT, root=tmp_path)
    other.start()
    mine = server.create("same.ipynb")
    theirs = other.create("same.ipynb")
    assert mine["id"] != theirs["id"]
    assert {row.namespace for row in rows_of(database)} == {f"dir:{server.root}", f"dir:{tmp_path}"}

    for one, own, foreign in ((server, mine, theirs), (other, theirs, mine)):
        assert [session["id"] for session in one.sessions()] == [own["id"]]
        assert one.get(foreign["id"]).status_code == 404
        assert one.patch(foreign["id"], path="stolen.ipynb").status_code == 404
        assert one.delete(foreign["id"]).status_code == 404

    assert {row.session_id for row in rows_of(database)} == {mine["id"], theirs["id"]}
    other.stop()
    assert [row.session_id for row in rows_of(database)] == [mine["id"]]
    assert server.execute(mine["kernel"]["id"], "print('alive')") == "alive\n"
