"""The handlers inside a real server: domain errors as HTTP, in front of the stock handlers."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPResponse
from traitlets.config import Config

from jupyter_session_store.errors import SchemaMismatch, SessionConflict, StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from tests.unit.dummies import (
    assert_equal_after_renewal,
    kernels_of,
    store_away,
    stored,
)

BODY = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "python3"}}


@pytest.fixture
def jp_server_config(jp_server_config: Config) -> Config:
    return Config(
        ServerApp={
            "session_manager_class": "jupyter_session_store.PersistentSessionManager",
            "kernel_manager_class": "tests.unit.dummies.DummyKernelManager",
            "allow_unauthenticated_access": False,
            "jpserver_extensions": {},
        },
        SessionManager={"database_filepath": ":memory:"},
    )


@pytest.fixture
def manager(jp_serverapp: Any) -> PersistentSessionManager:
    manager = jp_serverapp.session_manager
    assert isinstance(manager, PersistentSessionManager)
    return manager


async def fetch(jp_fetch: Any, *parts: str, method: str = "GET", body: Any = None) -> HTTPResponse:
    text = None if body is None else json.dumps(body)
    try:
        response: HTTPResponse = await jp_fetch(
            "api", "sessions", *parts, method=method, body=text, allow_nonstandard_methods=True
        )
    except HTTPClientError as error:
        if error.response is None:
            raise
        return error.response
    return response


async def test_the_main_job(jp_fetch: Any, manager: PersistentSessionManager) -> None:
    created = await fetch(jp_fetch, method="POST", body=BODY)
    assert created.code == 201
    model = json.loads(created.body)
    assert created.headers["Location"].endswith(f"/api/sessions/{model['id']}")
    again = await fetch(jp_fetch, method="POST", body=BODY)
    assert (again.code, json.loads(again.body)["id"]) == (201, model["id"])
    listed = await fetch(jp_fetch)
    assert json.loads(listed.body) == [model]
    renamed = await fetch(jp_fetch, model["id"], method="PATCH", body={"path": "b.ipynb"})
    assert json.loads(renamed.body)["path"] == "b.ipynb"
    got = await fetch(jp_fetch, model["id"])
    assert got.body == renamed.body
    gone = await fetch(jp_fetch, model["id"], method="DELETE")
    assert gone.code == 204
    assert (await fetch(jp_fetch, model["id"])).code == 404


async def test_nobody_is_let_in_without_a_token(
    jp_fetch: Any, http_server_client: Any, jp_base_url: str
) -> None:
    for path in ("api/sessions", "api/sessions/a-b-c-d-e"):
        for method in ("GET", "POST", "PATCH", "DELETE"):
            if (path, method) in {("api/sessions", "PATCH"), ("api/sessions", "DELETE")}:
                continue
            with pytest.raises(HTTPClientError) as refused:
                await http_server_client.fetch(
                    jp_base_url + path, method=method, allow_nonstandard_methods=True
                )
            assert refused.value.code in (403, 405)


async def answers_of_a_day(jp_fetch: Any) -> list[tuple[int, str]]:
    """Do with a session what can be done; return the answers, without ids and times."""
    answers: list[HTTPResponse] = []
    known: dict[str, str] = {}

    async def ask(*parts: str, method: str = "GET", body: Any = None) -> Any:
        answer = await fetch(jp_fetch, *parts, method=method, body=body)
        answers.append(answer)
        return json.loads(answer.body) if answer.body else None

    def note(name: str, model: Any) -> str:
        known[model["id"]] = name
        known[model["kernel"]["id"]] = f"kernel of {name}"
        return str(model["id"])

    one = note("one", await ask(method="POST", body=BODY))
    await ask(method="POST", body=BODY)
    two = note("two", await ask(method="POST", body={**BODY, "path": "b.ipynb"}))
    await ask()
    await ask(one, method="PATCH", body={"path": "c.ipynb", "name": "c"})
    note("one moved", await ask(one, method="PATCH", body={"kernel": {"name": "other"}}))
    await ask(one)
    await ask("a-b-c-d-e", method="PATCH", body={"path": "b"})
    await ask(one, method="DELETE")
    await ask(one)
    await ask(one, method="DELETE")
    await ask()
    await ask(two, method="DELETE")
    told = []
    for answer in answers:
        text = re.sub(r'"last_activity": "[^"]*"', "", answer.body.decode())
        for found, name in known.items():
            text = text.replace(found, name)
        told.append((answer.code, text))
    return told


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("db:5432", retry_after=7), SchemaMismatch("db:5432"), ValueError("odd")],
    ids=["unavailable", "schema", "a fault of the repository's own"],
)
async def test_a_store_that_fails_changes_no_answer(
    jp_fetch: Any,
    manager: PersistentSessionManager,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    caplog.set_level(logging.INFO)
    expected = await answers_of_a_day(jp_fetch)
    assert [code for code, _ in expected] == [
        *(201, 201, 201, 200, 200, 200, 200, 404, 204, 404, 404, 200, 204)
    ]
    kernels = kernels_of(manager)
    # Jupyter Server's own, in old releases.
    tracebacks = caplog.text.count("Traceback")
    caplog.clear()
    with store_away(manager, error):
        assert await answers_of_a_day(jp_fetch) == expected
        made = json.loads((await fetch(jp_fetch, method="POST", body=BODY)).body)
        assert await stored(manager) == []
    if not isinstance(error, ValueError):
        said = [one.getMessage() for one in caplog.records if one.levelno > logging.INFO]
        # Of sessions that are not there, as ever.
        assert [one for one in said if "Session not found" not in one and "404 " not in one] == []
        assert caplog.text.count("Traceback") == tracebacks
    assert manager._pending_sessions._records == []
    assert kernels.list_kernel_ids() == [made["kernel"]["id"]]
    await assert_equal_after_renewal(manager)
    assert [row.session_id for row in await stored(manager)] == [made["id"]]


async def test_a_conflict_is_a_409(jp_fetch: Any, manager: PersistentSessionManager) -> None:
    async def conflict(*_: Any, **__: Any) -> None:
        raise SessionConflict("s")

    manager.store.add = conflict  # type: ignore[method-assign]
    answer = await fetch(jp_fetch, method="POST", body=BODY)
    assert answer.code == 409


BAD_BODIES: list[Any] = [
    [],
    "text",
    5,
    {**BODY, "path": None},
    {**BODY, "path": 5},
    {**BODY, "type": []},
    {**BODY, "name": 5},
    {**BODY, "path": "x" * 4097},
    {**BODY, "path": "a\0b"},
    {**BODY, "path": "\ud800"},
    {**BODY, "kernel": 5},
    {**BODY, "kernel": {"name": 5}},
    {**BODY, "kernel": {"id": ["x"]}},
    {**BODY, "kernel": {"id": "a/b"}},
    {"notebook": 5},
    {"notebook": {"path": 5}},
    {"notebook": {"name": None}},
    {"notebook": {"path": None}},
]
#: A POST needs both the path and the type; a PATCH changes what is there.
PARTIAL_BODIES: list[Any] = [{"type": "console"}, {"path": "b.ipynb"}]


async def test_bad_bodies_are_400(jp_fetch: Any, manager: PersistentSessionManager) -> None:
    created = json.loads((await fetch(jp_fetch, method="POST", body=BODY)).body)
    for body in BAD_BODIES:
        answer = await fetch(jp_fetch, method="POST", body=body)
        assert answer.code == 400, body
        assert "%" not in json.loads(answer.body)["message"]
        patched = await fetch(jp_fetch, created["id"], method="PATCH", body=body)
        assert patched.code == 400, body
        assert "%" not in json.loads(patched.body)["message"]
        kept = await fetch(jp_fetch, created["id"])
        assert json.loads(kept.body) == created, body
    model = created
    for body in PARTIAL_BODIES:
        answer = await fetch(jp_fetch, method="POST", body=body)
        assert answer.code == 400, body
        patched = await fetch(jp_fetch, created["id"], method="PATCH", body=body)
        assert patched.code == 200, body
        changed = json.loads(patched.body)
        model = {**model, **body, "kernel": changed["kernel"]}
        model.pop("notebook", None)
        assert changed == model, body
        assert changed["kernel"]["id"] == created["kernel"]["id"]
    with pytest.raises(HTTPClientError) as refused:
        await jp_fetch("api", "sessions", method="POST", body=b"\xff{}")
    assert refused.value.code == 400
    kernels = kernels_of(manager)
    assert len(kernels.started) == 1
    assert len(await manager.store.find(manager.scope)) == 1


async def test_the_deprecated_notebook_key(
    jp_fetch: Any, manager: PersistentSessionManager
) -> None:
    created = await fetch(
        jp_fetch, method="POST", body={"notebook": {"path": "a.ipynb"}, "kernel": None}
    )
    model = json.loads(created.body)
    assert (created.code, model["path"], model["type"]) == (201, "a.ipynb", "notebook")
    renamed = await fetch(
        jp_fetch, model["id"], method="PATCH", body={"notebook": {"path": "b.ipynb"}}
    )
    assert json.loads(renamed.body)["notebook"]["path"] == "b.ipynb"
