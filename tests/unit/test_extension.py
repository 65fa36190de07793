"""Health and status inside a real server: who gets which answer, and what it holds."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from jupyter_server.auth.authorizer import Authorizer
from jupyter_server.extension.manager import ExtensionPackage
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.sessions.sessionmanager import SessionManager
from tornado.httpclient import HTTPClientError, HTTPResponse
from traitlets.config import Config

import jupyter_session_store
from jupyter_session_store import __version__
from jupyter_session_store.errors import SchemaMismatch, StoreUnavailable
from jupyter_session_store.local import PersistentKernelManager
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import STARTING
from jupyter_session_store.sql.schema import versions
from jupyter_session_store.testing import record
from jupyter_session_store.web import extension
from tests.unit.dummies import assert_equal_after_renewal, failing, raising, store_away

HEALTH = ("api", "session-store", "health")
STATUS = ("api", "session-store", "status")
#: Kernels that other servers use too: what is asked of sessions is asked of the store.
SHARED_KERNELS = {"ServerApp": {"kernel_manager_class": "tests.unit.dummies.SharedKernelManager"}}


class OnlyContents(Authorizer):
    """Lets users read contents, and nothing else."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        """Answer as the class says."""
        return resource == "contents" and action == "read"


@pytest.fixture
def more_config() -> dict[str, dict[str, Any]]:
    """What a test configures besides."""
    return {}


@pytest.fixture
def jp_server_config(jp_server_config: Config, more_config: dict[str, dict[str, Any]]) -> Config:
    config = Config(
        ServerApp={
            "session_manager_class": "jupyter_session_store.PersistentSessionManager",
            "kernel_manager_class": "tests.unit.dummies.DummyKernelManager",
            "allow_unauthenticated_access": False,
            "jpserver_extensions": {"jupyter_session_store": True},
        },
        SessionManager={"database_filepath": ":memory:"},
        # So that no heartbeat comes between.
        PersistentSessionManager={"lease_seconds": 86_400},
    )
    config.merge(Config(more_config))
    return config


@pytest.fixture
def manager(jp_serverapp: Any) -> PersistentSessionManager:
    manager = jp_serverapp.session_manager
    assert isinstance(manager, PersistentSessionManager)
    return manager


async def answered(request: Any) -> HTTPResponse:
    """Return the answer to a request, whatever its status."""
    try:
        response: HTTPResponse = await request
    except HTTPClientError as error:
        if error.response is None:
            raise
        return error.response
    return response


async def probe(http_server_client: Any, jp_base_url: str, *, what: str = "health") -> HTTPResponse:
    """Ask without a token."""
    return await answered(http_server_client.fetch(f"{jp_base_url}api/session-store/{what}"))


def counting_finds(manager: PersistentSessionManager) -> list[dict[str, Any]]:
    """Return the criteria with which the store is asked from now on."""
    asked: list[dict[str, Any]] = []
    find = manager.store.find

    async def counted(scope: Any, **criteria: Any) -> Any:
        asked.append(criteria)
        await asyncio.sleep(0)
        return await find(scope, **criteria)

    manager.store.find = counted  # type: ignore[method-assign]
    return asked


def test_it_is_found_where_jupyter_server_looks() -> None:
    assert jupyter_session_store._jupyter_server_extension_points() == [
        {"module": "jupyter_session_store.web.extension"}
    ]
    package: Any = ExtensionPackage
    assert package(name="jupyter_session_store", enabled=True).validate()


def test_what_is_not_used_is_not_imported() -> None:
    """A server with another session manager has nothing of this package but the extension."""
    code = (
        "import sys, jupyter_session_store.web.extension\n"
        "print(*sorted(m for m in sys.modules if m.startswith('jupyter_session_store.')))\n"
        "print('sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, with_sqlalchemy = done.stdout.splitlines()
    assert modules.split() == [
        f"jupyter_session_store.{name}"
        for name in ("_version", "authorities", "config", "web", "web.extension")
    ]
    assert with_sqlalchemy == "False"


async def test_health_is_told_to_anybody_and_tells_nothing_else(
    manager: PersistentSessionManager, http_server_client: Any, jp_base_url: str
) -> None:
    response = await probe(http_server_client, jp_base_url)
    assert (response.code, json.loads(response.body)) == (200, {"status": "well"})
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in response.headers


async def test_status_is_told_to_a_user_alone(
    manager: PersistentSessionManager, http_server_client: Any, jp_base_url: str
) -> None:
    response = await probe(http_server_client, jp_base_url, what="status")
    assert response.code == 403
    assert b"namespace" not in response.body


@pytest.mark.parametrize(
    "more_config",
    [{"ServerApp": {"authorizer_class": f"{__name__}.OnlyContents"}}],
    ids=["no rights to sessions"],
)
async def test_status_is_told_to_a_user_who_may_read_sessions(
    manager: PersistentSessionManager, jp_fetch: Any
) -> None:
    assert (await answered(jp_fetch(*STATUS))).code == 403
    assert (await answered(jp_fetch(*HEALTH))).code == 200


async def test_status_says_what_there_is(manager: PersistentSessionManager, jp_fetch: Any) -> None:
    for path in ("a.ipynb", "b.ipynb"):
        await manager.create_session(path=path, type="notebook", name="")
    response = await jp_fetch(*STATUS)
    told = json.loads(response.body)
    assert response.headers["Cache-Control"] == "no-store"
    ago = told["lease"].pop("renewed_seconds_ago")
    assert 0 <= ago < manager.lease_seconds
    assert told == {
        "well": True,
        "away_seconds": None,
        "unsynchronized_sessions": 0,
        "version": __version__,
        "repository": "sqlalchemy",
        "backend": "sqlite in memory",
        "host": None,
        "revision": versions.HEAD,
        "namespace": manager.namespace,
        "authority": "server",
        "server_id": manager.server_id,
        "lease": {"seconds": 86_400, "overdue": False},
        "sessions": {"starting": 0, "ready": 2, "closing": 0},
    }


@pytest.mark.parametrize("more_config", [SHARED_KERNELS], ids=["a gateway's kernels"])
async def test_status_counts_the_states_of_shared_sessions(
    manager: PersistentSessionManager, jp_fetch: Any
) -> None:
    for path in ("a.ipynb", "b.ipynb"):
        await manager.create_session(path=path, type="notebook", name="")
    first, _ = await manager.store.find(manager.scope)
    await manager.store.begin_close(manager.scope, first.session_id, manager.server_id)
    starting = {"state": STARTING, "kernel_id": "k", "server_id": manager.server_id}
    await manager.store.add(record("c", manager.scope, **starting))
    # It only says which kernel to look for.
    await manager.store.add(record("d", manager.scope, path=None, **starting))
    told = json.loads((await jp_fetch(*STATUS)).body)
    assert told["authority"] == "gateway"
    assert told["sessions"] == {"starting": 1, "ready": 1, "closing": 1}
    assert (told["away_seconds"], told["unsynchronized_sessions"]) == (None, 0)


@pytest.mark.parametrize("more_config", [SHARED_KERNELS], ids=["a gateway's kernels"])
async def test_a_state_that_nobody_writes_is_taken_as_ready(
    manager: PersistentSessionManager,
) -> None:
    await manager.store.add(record("a", manager.scope, state="odd"))
    assert await manager.count_sessions() == {"starting": 0, "ready": 1, "closing": 0}


FAULTS: list[Exception] = [
    StoreUnavailable("postgresql://u:s3cr3t@db"),
    SchemaMismatch("s3cr3t"),
    ValueError("s3cr3t"),
]


@pytest.mark.parametrize("more_config", [SHARED_KERNELS], ids=["a gateway's kernels"])
@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
async def test_a_store_that_fails_is_unwell(
    manager: PersistentSessionManager, jp_fetch: Any, caplog: Any, error: Exception
) -> None:
    failing(manager, "find", error)
    caplog.clear()
    health = await answered(jp_fetch(*HEALTH))
    assert (health.code, json.loads(health.body)) == (503, {"status": "unwell"})
    assert int(health.headers["Retry-After"]) > 0
    assert health.headers["Cache-Control"] == "no-store"
    status = await jp_fetch(*STATUS)
    told = json.loads(status.body)
    assert (told["well"], told["sessions"], told["revision"]) == (False, None, None)
    assert told["server_id"] == manager.server_id
    assert b"s3cr3t" not in status.body
    assert not [entry for entry in caplog.records if entry.exc_info]
    said = [entry for entry in caplog.records if "/api/session-store/health" in entry.getMessage()]
    assert [entry.levelno for entry in said] == [logging.DEBUG]
    del manager.store.find
    status = await jp_fetch(*STATUS)
    assert json.loads(status.body)["well"] is True


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
async def test_a_store_that_fails_degrades_a_server_with_its_own_kernels(
    manager: PersistentSessionManager,
    jp_fetch: Any,
    caplog: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """A probe must not restart it: that ends its kernels, and mends nothing."""
    monkeypatch.setattr(extension, "SHARED_SECONDS", -1)
    await manager.create_session(path="a.ipynb", type="notebook", name="")
    caplog.clear()
    with store_away(manager, error):
        await manager.create_session(path="b.ipynb", type="notebook", name="")
        health = await jp_fetch(*HEALTH)
        assert (health.code, json.loads(health.body)) == (200, {"status": "degraded"})
        assert "Retry-After" not in health.headers
        status = await jp_fetch(*STATUS)
        told = json.loads(status.body)
        assert (told["well"], told["revision"]) == (False, None)
        assert told["sessions"] == {"starting": 0, "ready": 2, "closing": 0}
        assert told["away_seconds"] >= 0
        assert told["unsynchronized_sessions"] == 1
        assert b"s3cr3t" not in status.body
    await assert_equal_after_renewal(manager)
    assert json.loads((await jp_fetch(*HEALTH)).body) == {"status": "well"}
    told = json.loads((await jp_fetch(*STATUS)).body)
    assert (told["well"], told["away_seconds"], told["unsynchronized_sessions"]) == (True, None, 0)


async def test_a_manager_that_is_closed_is_unwell(
    manager: PersistentSessionManager, jp_fetch: Any
) -> None:
    manager.close()
    health = await answered(jp_fetch(*HEALTH))
    assert (health.code, json.loads(health.body)) == (503, {"status": "unwell"})


@pytest.mark.parametrize(
    ("more_config", "code"), [({}, 200), (SHARED_KERNELS, 503)], ids=["local", "gateway"]
)
async def test_a_store_that_does_not_answer_is_not_well(
    manager: PersistentSessionManager, jp_fetch: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(extension, "TIMEOUT", 0.05)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    manager.store.find = hang  # type: ignore[method-assign, assignment]
    health = await answered(jp_fetch(*HEALTH))
    assert health.code == code
    assert json.loads(health.body) != {"status": "well"}
    assert json.loads((await jp_fetch(*STATUS)).body)["well"] is False


async def test_many_probes_ask_the_store_once(
    manager: PersistentSessionManager,
    http_server_client: Any,
    jp_base_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extension, "SHARED_SECONDS", 3600)
    asked = counting_finds(manager)

    async def told() -> Any:
        return json.loads((await probe(http_server_client, jp_base_url)).body)

    answers = await asyncio.gather(*(probe(http_server_client, jp_base_url) for _ in range(100)))
    assert {answer.code for answer in answers} == {200}
    assert (await probe(http_server_client, jp_base_url)).code == 200
    assert asked == [{"session_id": manager.server_id}]
    # A bad answer is as good as a good one.
    monkeypatch.setattr(extension, "SHARED_SECONDS", -1)
    failing(manager, "find", StoreUnavailable("test"))
    assert await told() == {"status": "degraded"}
    monkeypatch.setattr(extension, "SHARED_SECONDS", 3600)
    del manager.store.find
    assert await told() == {"status": "degraded"}
    # It is asked again when that is old.
    monkeypatch.setattr(extension, "SHARED_SECONDS", -1)
    assert await told() == {"status": "well"}


async def test_a_probe_that_goes_away_does_not_end_the_question_of_the_others(
    manager: PersistentSessionManager,
) -> None:
    asker = extension.Probe(manager)
    first = asyncio.ensure_future(asker.is_well())
    second = asyncio.ensure_future(asker.is_well())
    await asyncio.sleep(0)
    first.cancel()
    assert await second is True
    with pytest.raises(asyncio.CancelledError):
        await first


@pytest.mark.parametrize(
    ("more_config", "code"), [({}, 200), (SHARED_KERNELS, 503)], ids=["local", "gateway"]
)
async def test_a_store_that_cannot_be_written_is_not_well_though_it_can_be_read(
    manager: PersistentSessionManager, jp_fetch: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(extension, "SHARED_SECONDS", -1)
    manager.store.renew = raising(StoreUnavailable("it only reads"))  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await asyncio.wrap_future(manager.lease.renew_now())
    assert (manager.lease.failing, manager.lease.overdue) == (True, False)
    health = await answered(jp_fetch(*HEALTH))
    assert (health.code, json.loads(health.body)["status"] != "well") == (code, True)
    assert json.loads((await jp_fetch(*STATUS)).body)["well"] is False
    del manager.store.renew
    # At once, and not only with the next renewal.
    assert json.loads((await jp_fetch(*HEALTH)).body) == {"status": "well"}
    assert (manager.lease.failing, manager.lease.overdue) == (False, False)
    assert json.loads((await jp_fetch(*STATUS)).body)["well"] is True


async def test_other_methods_are_answered_as_those_of_jupyter_server(
    manager: PersistentSessionManager, jp_fetch: Any
) -> None:
    for method in ("HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
        how = {"method": method, "allow_nonstandard_methods": True}
        stock = await answered(jp_fetch("api", "status", **how))
        for path in (HEALTH, STATUS):
            assert (await answered(jp_fetch(*path, **how))).code == stock.code, method


async def test_a_probe_is_no_activity(
    jp_serverapp: Any, manager: PersistentSessionManager, jp_fetch: Any
) -> None:
    await jp_fetch("api", "sessions")
    last = jp_serverapp.web_app.settings["api_last_activity"]
    for path in (HEALTH, STATUS):
        await jp_fetch(*path)
    assert jp_serverapp.web_app.settings["api_last_activity"] == last


STOCK: dict[str, Any] = {
    "session_manager_class": "jupyter_server.services.sessions.sessionmanager.SessionManager"
}


def loaded_without(
    jp_serverapp: Any, caplog: pytest.LogCaptureFixture, config: Config
) -> list[logging.LogRecord]:
    """Load the extension beside another session manager; return what is said then."""
    caplog.set_level(logging.DEBUG, jp_serverapp.log.name)
    jp_serverapp.config = config
    caplog.clear()
    extension._load_jupyter_server_extension(jp_serverapp)
    return list(caplog.records)


@pytest.mark.parametrize("more_config", [{"ServerApp": STOCK}], ids=["the stock manager"])
async def test_with_another_session_manager_it_is_inert(
    jp_serverapp: Any,
    jp_fetch: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("JUPYTER_SESSION_STORE_URL", raising=False)
    # As its own session manager takes it.
    config = Config(SessionManager={"database_filepath": "/home/me/sessions.db"})
    (said,) = [
        one for one in loaded_without(jp_serverapp, caplog, config) if "store" in one.getMessage()
    ]
    assert (said.levelno, said.getMessage()) == (
        logging.DEBUG,
        "jupyter_session_store serves no status: the session manager is SessionManager.",
    )
    for path in (HEALTH, STATUS):
        assert (await answered(jp_fetch(*path))).code == 404
    assert (await jp_fetch("api", "sessions")).code == 200


@pytest.mark.parametrize("more_config", [{"ServerApp": STOCK}], ids=["the stock manager"])
@pytest.mark.parametrize(
    ("config", "environment", "named"),
    [
        (
            {"PersistentSessionManager": {"namespace": "me"}},
            {},
            "c.PersistentSessionManager.namespace",
        ),
        (
            {"SessionManager": {"database_filepath": "postgresql://u:s3cr3t@db/x"}},
            {},
            "c.SessionManager.database_filepath",
        ),
        ({}, {"JUPYTER_SESSION_STORE_URL": "mysql://u:s3cr3t@db/x"}, "JUPYTER_SESSION_STORE_URL"),
    ],
    ids=["a setting", "a URL", "the environment"],
)
async def test_settings_that_have_no_effect_are_told_of_once(
    jp_serverapp: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    environment: dict[str, str],
    named: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    told = loaded_without(jp_serverapp, caplog, Config(config))
    (warning,) = [one.getMessage() for one in told if one.levelno >= logging.WARNING]
    assert f"configured ({named})" in warning
    assert "runs is jupyter_server.services.sessions.sessionmanager.SessionManager." in warning
    assert "c.ServerApp.session_manager_class = 'jupyter_session_store." in warning
    assert not any("s3cr3t" in one.getMessage() for one in told)


@pytest.mark.parametrize(
    "more_config",
    [{"ServerApp": {**STOCK, "kernel_manager_class": PersistentKernelManager}}],
    ids=["the stock manager"],
)
async def test_kernels_that_outlive_no_server_without_the_session_manager_are_told_of(
    jp_serverapp: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUPYTER_SESSION_STORE_URL", raising=False)
    told = loaded_without(jp_serverapp, caplog, Config())
    (warning,) = [one.getMessage() for one in told if one.levelno >= logging.WARNING]
    assert "configured (c.ServerApp.kernel_manager_class) and is not used" in warning


class OfAnExtension(SessionManager):
    """A class that an extension sets when it is linked."""


class Both(OfAnExtension, PersistentSessionManager):
    """What a user sets."""


@pytest.mark.parametrize(
    ("configured", "runs"),
    [
        (Both, Both),
        # It lacks what the extension needs.
        (PersistentSessionManager, OfAnExtension),
        (SessionManager, OfAnExtension),
    ],
)
def test_a_class_of_both_is_set_again_after_the_extensions_own(
    configured: type[SessionManager],
    runs: type[SessionManager],
    caplog: pytest.LogCaptureFixture,
) -> None:
    ServerApp.clear_instance()
    app: Any = ServerApp.instance()
    try:
        app.update_config(Config(ServerApp={"session_manager_class": configured}))
        jupyter_session_store._jupyter_server_extension_points()
        app.update_config(Config(ServerApp={"session_manager_class": OfAnExtension}))
        extension._link_jupyter_server_extension(app)
        assert app.session_manager_class is runs
        named = "c.ServerApp.session_manager_class" in extension._settings_of(app)
        assert named is (configured is not SessionManager)
    finally:
        ServerApp.clear_instance()
