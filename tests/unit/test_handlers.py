"""The handlers inside a real server: domain errors as HTTP, in front of the stock handlers."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPResponse
from traitlets.config import Config

from jupyter_session_store.errors import SchemaMismatch, SessionConflict, StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from tests.unit.dummies import DummyKernelManager

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


REQUESTS: list[tuple[str, tuple[str, ...], Any]] = [
    ("GET", (), None),
    ("POST", (), BODY),
    ("GET", ("a-b-c-d-e",), None),
    ("PATCH", ("a-b-c-d-e",), {"path": "b"}),
    ("PATCH", ("a-b-c-d-e",), {"kernel": {"name": "python3"}}),
    ("DELETE", ("a-b-c-d-e",), None),
]


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [(StoreUnavailable("db:5432", retry_after=7), "7"), (SchemaMismatch("db:5432"), "60")],
    ids=["unavailable", "schema"],
)
async def test_a_store_that_fails_is_a_503(
    jp_fetch: Any,
    manager: PersistentSessionManager,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    retry_after: str,
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    for verb in ("find", "add", "update", "begin_close", "remove"):
        setattr(manager.store, verb, fail)
    caplog.set_level(logging.INFO)
    for method, parts, body in REQUESTS:
        answer = await fetch(jp_fetch, *parts, method=method, body=body)
        assert (answer.code, answer.headers["Retry-After"]) == (503, retry_after)
        # Where the database is stands in the log, once.
        told = "The session store is unavailable; the server's log says why."
        assert json.loads(answer.body)["message"] == told
    assert "Traceback" not in caplog.text
    assert manager._pending_sessions._records == []
    kernels = manager.kernel_manager
    assert isinstance(kernels, DummyKernelManager)
    assert kernels.list_kernel_ids() == []


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
    kernels = manager.kernel_manager
    assert isinstance(kernels, DummyKernelManager)
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
