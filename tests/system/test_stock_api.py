"""Nothing of the stock REST API is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import httpx
import pytest

from ..databases import Database
from .conftest import Running, stored_in
from .process import OTHER_KERNEL
from .rows import dump, row_of, rows_of
from .server import PATIENT, JupyterServer
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.spread]

NOWHERE = "00000000-0000-0000-0000-000000000000"


def test_a_post_on_a_path_that_has_a_session_returns_it(shared: Running) -> None:
    server = shared.server
    first = server.post("a.ipynb")
    again = server.post("a.ipynb", name="another", kernel={"name": OTHER_KERNEL})

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.headers["Location"] == f"/api/sessions/{first.json()['id']}"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["name"] == "a.ipynb"
    assert again.json()["kernel"]["name"] == "python3"
    assert len(server.kernels()) == len(rows_of(shared.database)) == 1
    assert server.api.get(first.headers["Location"]).status_code == 200


def test_the_client_names_the_kernel_id(shared: Running) -> None:
    server = shared.server
    wanted = str(uuid4())
    session = server.create("a.ipynb", kernel={"id": wanted})
    assert session["kernel"]["id"] == wanted
    assert row_of(shared.database, session["id"]).kernel_id == wanted
    assert server.execute(wanted, "print('here')") == "here\n"

    # The kernel is there now: another path attaches to it.
    other = server.create("b.ipynb", kernel={"id": wanted})
    assert other["id"] != session["id"]
    assert server.kernels() == [wanted]


def test_a_kernel_id_that_is_being_started_is_a_conflict(shared: Running) -> None:
    server = shared.server
    statuses: Counter[int] = Counter()
    with ThreadPoolExecutor(20) as threads:
        for turn in range(5):
            wanted, barrier = str(uuid4()), Barrier(20)

            def post(path: str, wanted: str = wanted, barrier: Barrier = barrier) -> httpx.Response:
                barrier.wait()
                return server.post(path, kernel={"id": wanted})

            answers = list(threads.map(post, [f"{turn}-{number}.ipynb" for number in range(20)]))
            assert server.kernels() == [wanted]
            assert server.number_of_kernel_processes() == 1
            assert all(wanted in answer.text for answer in answers), [a.text for a in answers]
            statuses.update(answer.status_code for answer in answers)
            ids = [answer.json()["id"] for answer in answers if answer.status_code == 201]
            assert sorted(row.session_id for row in rows_of(shared.database)) == sorted(ids)
            for session_id in ids:
                server.delete(session_id)
    # Who asks while the kernel is being started, and who asks when it is there.
    assert set(statuses) == {201, 409}


def test_the_deprecated_key_notebook(shared: Running) -> None:
    server = shared.server
    body = {"notebook": {"path": "old.ipynb"}}
    session = server.model(server.api.post("/api/sessions", json=body), 201)
    assert (session["path"], session["type"]) == ("old.ipynb", "notebook")
    assert session["notebook"]["path"] == "old.ipynb"

    moved = server.model(server.patch(session["id"], notebook={"path": "new.ipynb"}), 200)
    assert moved["notebook"]["path"] == moved["path"] == "new.ipynb"
    assert row_of(shared.database, session["id"]).path == "new.ipynb"

    console = server.create("console", type="console")
    assert "notebook" not in console


def test_what_is_missing_is_not_found(shared: Running) -> None:
    server = shared.server
    server.create("a.ipynb")
    before = dump(shared.database)
    assert server.get(NOWHERE).status_code == 404
    assert server.patch(NOWHERE, path="b.ipynb").status_code == 404
    assert server.patch(NOWHERE, kernel={"name": OTHER_KERNEL}).status_code == 404
    assert server.delete(NOWHERE).status_code == 404
    assert dump(shared.database) == before
    assert len(server.kernels()) == 1


def test_a_body_is_needed(shared: Running) -> None:
    api = shared.server.api
    assert api.post("/api/sessions").status_code == 400
    for missing in ({"path": "a.ipynb"}, {"type": "notebook"}, {}):
        answer = api.post("/api/sessions", json=missing)
        assert answer.status_code == 400
        assert "Missing field in JSON data" in answer.json()["message"]
    assert rows_of(shared.database) == []
    assert shared.server.kernels() == []


def test_a_session_whose_kernel_was_shut_down_is_gone(shared: Running) -> None:
    server = shared.server
    sessions = [server.create(path) for path in ("a.ipynb", "b.ipynb", "c.ipynb")]
    for session in sessions:
        server.api.delete(f"/api/kernels/{session['kernel']['id']}")
    listed, got, deleted = sessions

    assert server.delete(deleted["id"]).status_code == 404
    assert server.get(got["id"]).status_code == 404
    assert server.sessions() == []
    assert server.get(listed["id"]).status_code == 404
    until(lambda: not rows_of(shared.database), why="the rows go soon after the read")


def test_a_kernel_that_restarts_keeps_its_session(shared: Running) -> None:
    server = shared.server
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    server.execute(kernel_id, "x = 1")
    assert server.api.post(f"/api/kernels/{kernel_id}/restart").status_code == 200
    assert server.execute(kernel_id, "print('x' in dir())") == "False\n"
    assert [model["id"] for model in server.sessions()] == [session["id"]]


def test_a_path_may_be_used_again(shared: Running) -> None:
    server = shared.server
    first = server.create("a.ipynb")
    server.patch(first["id"], path="b.ipynb")
    second = server.create("a.ipynb")
    assert second["id"] != first["id"]
    server.delete(second["id"])
    third = server.create("a.ipynb")
    assert third["id"] not in (first["id"], second["id"])
    assert {row.path for row in rows_of(shared.database)} == {"a.ipynb", "b.ipynb"}


def test_paths_are_compared_exactly(shared: Running) -> None:
    server = shared.server
    paths = ["a.ipynb", "A.ipynb", "a.ipynb ", "\u00e1.ipynb", "a\u0301.ipynb"]
    kernel = {"id": server.create(paths[0])["kernel"]["id"]}
    ids = {path: server.create(path, kernel=kernel)["id"] for path in paths}
    assert len(set(ids.values())) == len(paths)
    for path in paths:
        assert server.create(path)["id"] == ids[path]
    assert [session["path"] for session in server.sessions()] == paths


def test_without_the_token_nothing_is_answered(shared: Running) -> None:
    server = shared.server
    session = server.create("a.ipynb")
    before = dump(shared.database)
    with httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=60) as stranger:
        one = f"/api/sessions/{session['id']}"
        body = {"path": "b.ipynb", "type": "notebook"}
        answers = [
            stranger.get("/api/sessions"),
            stranger.post("/api/sessions", json=body),
            stranger.get(one),
            stranger.patch(one, json=body),
            stranger.delete(one),
        ]
    assert [answer.status_code for answer in answers] == [403] * 5
    assert dump(shared.database) == before


def test_an_unknown_kernel_specification(server: JupyterServer, database: Database) -> None:
    # jupyter_client remembers a start that failed as pending: an orderly stop, and a list of
    # kernels, may wait for it. So this server is the test's own, and is killed.
    answer = server.post("a.ipynb", kernel={"name": "no-such-kernel"})
    assert answer.status_code == 501
    assert "no-such-kernel" in answer.json()["message"]
    assert answer.json()["short_message"] == "no-such-kernel not found"
    assert rows_of(database) == []
    assert server.kernel_processes() == []

    session = server.create("a.ipynb")
    before = dump(database)
    answer = server.patch(session["id"], kernel={"name": "no-such-kernel"})
    assert answer.status_code == 501
    assert answer.json()["short_message"] == "Error starting kernel no-such-kernel"
    answer = server.patch(session["id"], kernel={"id": NOWHERE})
    assert answer.status_code == 400
    assert dump(database) == before
    assert server.execute(session["kernel"]["id"], "1 + 1") == "2"
    assert server.own_frames() == []
    server.kill()


def test_pending_kernels(database: Database, new_server: Callable[..., JupyterServer]) -> None:
    server = new_server(
        f"{stored_in(database)}{PATIENT}c.AsyncMappingKernelManager.use_pending_kernels = True"
    )
    server.start()
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    assert server.create("a.ipynb")["id"] == session["id"]
    assert server.execute(kernel_id, "print('up')") == "up\n"
    assert row_of(database, session["id"]).kernel_id == kernel_id

    moved = server.model(server.patch(session["id"], kernel={"name": OTHER_KERNEL}), 200)
    second = moved["kernel"]["id"]
    assert server.execute(second, "print('up')") == "up\n"
    until(lambda: server.kernels() == [second], why="the kernel that it left is shut down")

    assert server.delete(session["id"]).status_code == 204
    until(lambda: not server.kernel_processes(), why="the last kernel is shut down")
    assert rows_of(database) == []
    server.create("b.ipynb")
    server.stop()
    assert rows_of(database) == []
    assert server.own_frames() == []
