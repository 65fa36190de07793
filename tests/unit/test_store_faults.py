"""A store that is away, as any handler answers it that needs it: a 503, and a log that is quiet.

With kernels that other servers use too; what local kernels need of it is in test_handlers.py.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

import prometheus_client
import pytest
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web
from tornado.httpclient import HTTPClientError, HTTPResponse
from traitlets.config import Config

from jupyter_session_store.errors import (
    GatewayUnavailable,
    InvalidValue,
    PathClaimed,
    SchemaMismatch,
    SessionConflict,
    SessionStoreError,
    StoreUnavailable,
    WaitTimedOut,
)
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.sessions.http_errors import HTTPStoreError, as_http
from tests.unit.dummies import NOTEBOOK, failing, shared_manager

#: What the log may say of a database, and a client may not see.
WHERE: Final = "postgresql jupyter@db.example.org:5432/jupyter: connection refused"
AWAY: Final = StoreUnavailable(WHERE, retry_after=7)
BEHIND: Final = SchemaMismatch(f"The schema of {WHERE} is behind")
TOLD: Final = "The session store is unavailable; the server's log says why."


class ForApi(APIHandler):
    """Another package's handler."""

    async def get(self) -> None:
        """Ask the session manager, as a handler does that knows nothing of this package."""
        manager: Any = self.session_manager
        self.finish(json.dumps(await manager.list_sessions()))


class ForPages(JupyterHandler):
    """Another package's handler of a page."""

    async def get(self) -> None:
        """Ask the session manager."""
        manager: Any = self.session_manager
        self.finish(str(await manager.list_sessions()))


class Plain(web.RequestHandler):
    """Another package's handler that knows of tornado alone."""

    async def get(self) -> None:
        """Ask the session manager."""
        self.finish(str(await self.settings["session_manager"].list_sessions()))


class Broken(APIHandler):
    """A handler with a fault of its own."""

    async def get(self) -> None:
        """Fail."""
        raise web.HTTPError(503, "a fault of its own")


HANDLERS: Final = {"api": ForApi, "page": ForPages, "plain": Plain}


@pytest.fixture
def jp_server_config(jp_server_config: Config) -> Config:
    return Config(
        ServerApp={
            "session_manager_class": "jupyter_session_store.PersistentSessionManager",
            "kernel_manager_class": "tests.unit.dummies.SharedKernelManager",
            "jpserver_extensions": {"jupyter_session_store": True},
        },
        SessionManager={"database_filepath": ":memory:"},
        # So that no heartbeat comes between.
        PersistentSessionManager={"lease_seconds": 86_400},
    )


@pytest.fixture
def manager(jp_serverapp: Any) -> PersistentSessionManager:
    manager = jp_serverapp.session_manager
    assert isinstance(manager, PersistentSessionManager)
    handlers = [*HANDLERS.items(), ("broken", Broken)]
    jp_serverapp.web_app.add_handlers(
        ".*$", [(f"{jp_serverapp.base_url}other/{name}", kind) for name, kind in handlers]
    )
    return manager


async def fetch(jp_fetch: Any, *parts: str, method: str = "GET", body: Any = None) -> HTTPResponse:
    text = None if body is None else json.dumps(body)
    try:
        response: HTTPResponse = await jp_fetch(
            *parts, method=method, body=text, allow_nonstandard_methods=True
        )
    except HTTPClientError as error:
        if error.response is None:
            raise
        return error.response
    return response


def all_failing(manager: PersistentSessionManager, error: Exception) -> None:
    for verb in ("find", "add", "update", "begin_close", "remove"):
        failing(manager, verb, error)


def requests_counted(handler: str) -> float:
    """Return how many answers Jupyter Server's own metrics have of a handler, with a 503."""
    found = 0.0
    for metric in prometheus_client.REGISTRY.collect():
        for sample in metric.samples:
            if sample.name.endswith("http_request_duration_seconds_count"):
                labels = sample.labels
                if labels["status_code"] == "503" and labels["handler"].endswith(handler):
                    found += sample.value
    return found


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize(
    ("error", "seconds"), [(AWAY, "7"), (BEHIND, "60")], ids=["away", "schema"]
)
async def test_a_handler_of_another_package_answers_503(
    jp_fetch: Any,
    manager: PersistentSessionManager,
    caplog: pytest.LogCaptureFixture,
    name: str,
    error: Exception,
    seconds: str,
) -> None:
    all_failing(manager, error)
    caplog.set_level(logging.INFO)
    before = requests_counted(HANDLERS[name].__name__)
    for _ in range(3):
        answer = await fetch(jp_fetch, "other", name)
        assert (answer.code, answer.headers["Retry-After"]) == (503, seconds)
        assert "db.example.org" not in answer.body.decode()
        if name == "api":
            assert json.loads(answer.body)["message"] == TOLD
    assert [entry for entry in caplog.records if entry.levelno >= logging.ERROR] == []
    # Jupyter Server's own warning, which had the traceback in older releases.
    others = [entry for entry in caplog.records if entry.msg != "wrote error: %r"]
    assert [entry for entry in others if entry.exc_info] == []
    # It is counted all the same.
    assert requests_counted(HANDLERS[name].__name__) - before == 3


async def test_the_requests_of_an_outage_are_logged_for_those_who_look_closely(
    jp_fetch: Any, manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    all_failing(manager, AWAY)
    caplog.set_level(logging.DEBUG)
    await fetch(jp_fetch, "api", "sessions")
    said = [one for one in caplog.records if "GET /a%40b/api/sessions" in one.getMessage()]
    assert {one.levelno for one in said} == {logging.DEBUG}


async def test_a_fault_of_another_kind_is_logged_as_ever(
    jp_fetch: Any, manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await fetch(jp_fetch, "other", "broken")
    assert (answer.code, "Retry-After" in answer.headers) == (503, False)
    assert any(entry.levelno == logging.ERROR for entry in caplog.records)


@pytest.mark.parametrize("error", [GatewayUnavailable("it is late"), WaitTimedOut("it is late")])
async def test_a_fault_that_only_the_answer_tells_of_is_a_warning(
    jp_fetch: Any,
    manager: PersistentSessionManager,
    caplog: pytest.LogCaptureFixture,
    error: StoreUnavailable,
) -> None:
    all_failing(manager, error)
    answer = await fetch(jp_fetch, "api", "sessions")
    assert (answer.code, json.loads(answer.body)["message"]) == (503, str(error))
    levels = {entry.levelno for entry in caplog.records}
    assert logging.WARNING in levels
    assert logging.ERROR not in levels


async def test_an_outage_is_silent_in_the_packages_own_handlers(
    jp_fetch: Any, manager: PersistentSessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    all_failing(manager, AWAY)
    body = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    requests: list[tuple[str, tuple[str, ...], Any]] = [
        ("GET", (), None),
        ("POST", (), body),
        ("GET", ("a-b-c-d-e",), None),
        ("PATCH", ("a-b-c-d-e",), {"path": "b"}),
        ("PATCH", ("a-b-c-d-e",), {"kernel": {"name": "python3"}}),
        ("DELETE", ("a-b-c-d-e",), None),
    ]
    caplog.set_level(logging.INFO)
    caplog.clear()
    for method, parts, what in requests:
        answer = await fetch(jp_fetch, "api", "sessions", *parts, method=method, body=what)
        assert (answer.code, answer.headers["Retry-After"]) == (503, "7"), method
        assert json.loads(answer.body) == {"message": TOLD, "reason": None}
        assert answer.reason == "Service Unavailable"
    assert [entry.getMessage() for entry in caplog.records if entry.levelno > logging.INFO] == []


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (AWAY, 503, TOLD),
        (BEHIND, 503, TOLD),
        (GatewayUnavailable("100 % late"), 503, "The gateway is unavailable: 100 % late"),
        (InvalidValue("path", "is odd", "another"), 400, None),
        (SessionConflict("s"), 409, None),
        (PathClaimed("p"), 409, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_both(error: SessionStoreError, status: int, text: str | None) -> None:
    both = as_http(error)
    assert isinstance(both, type(error))
    assert isinstance(both, web.HTTPError)
    assert both.status_code == status
    assert str(both) == (str(error) if text is None else text)
    assert both.reason is None
    assert as_http(both) is both
    assert type(as_http(error)) is type(both)


async def test_each_method_of_the_manager_raises_what_tornado_understands() -> None:
    manager = shared_manager(":memory:", repository="memory")
    model = await manager.create_session(**NOTEBOOK)
    record = (await manager.store.find(manager.scope))[0]
    all_failing(manager, AWAY)
    calls: dict[str, Any] = {
        "session_exists": manager.session_exists("a.ipynb"),
        "get_session": manager.get_session(path="a.ipynb"),
        "list_sessions": manager.list_sessions(),
        "count_sessions": manager.count_sessions(),
        "get_or_create_session": manager.get_or_create_session("a.ipynb"),
        "create_session": manager.create_session("b.ipynb"),
        "save_session": manager.save_session(
            "s", path="c", type="file", kernel_id=model["kernel"]["id"]
        ),
        "update_session": manager.update_session(model["id"], path="d"),
        "change_session": manager.change_session(model["id"], path="d"),
        "delete_session": manager.delete_session(model["id"]),
    }
    for name, call in calls.items():
        with pytest.raises(HTTPStoreError) as raised:
            await call
        error: Any = raised.value
        assert error.status_code == 503
        assert isinstance(error, StoreUnavailable), name
        cause = error.__cause__
        assert isinstance(cause, StoreUnavailable)
        assert "db.example.org" in str(cause), "whoever asks from Python has the reason"
    assert record.session_id == model["id"]
    for verb in ("find", "add", "update", "begin_close", "remove"):
        delattr(manager.store, verb)
    with pytest.raises(web.HTTPError) as refused:
        await manager.create_session("x" * 5000)
    assert (refused.value.status_code, isinstance(refused.value, InvalidValue)) == (400, True)
    manager.close()
