"""The events of sessions: which are told, when, and that telling them harms nobody."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from jupyter_events import EventLogger
from jupyter_events.schema import EventSchema
from tornado import web
from traitlets.config import LoggingConfigurable

from jupyter_session_store.errors import InvalidValue, StoreUnavailable
from jupyter_session_store.manager import PersistentSessionManager
from jupyter_session_store.records import STARTING, Liveness
from jupyter_session_store.telemetry import events
from jupyter_session_store.testing import record, server
from tests.unit.dummies import (
    NOTEBOOK,
    SHARED,
    DummyKernelManager,
    assert_equal_after_renewal,
    failing,
    make_manager,
    settle,
    shared_manager,
    store_away,
    stored,
)


class Kept(logging.Handler):
    """Keeps the events, as the operator's handler gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.told.append(json.loads(self.format(record)))

    def take(self) -> list[dict[str, Any]]:
        """Return what came since the last time, without what every event has."""
        taken = [{k: v for k, v in one.items() if not k.startswith("__")} for one in self.told]
        self.told.clear()
        return [{k: v for k, v in one.items() if k != "taskName"} for one in taken]


class Server(LoggingConfigurable):
    """What a server is to the manager."""

    def __init__(self, event_logger: Any) -> None:
        super().__init__()
        self.event_logger = event_logger


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def event_logger(kept: Kept) -> EventLogger:
    event_logger = EventLogger()
    event_logger.handlers = []
    event_logger.register_handler(kept)
    return event_logger


@pytest.fixture(params=["sqlalchemy", "memory"])
def manager(
    request: pytest.FixtureRequest, kernels: DummyKernelManager, event_logger: EventLogger
) -> Iterator[PersistentSessionManager]:
    manager = make_manager(kernels=kernels, repository=request.param, parent=Server(event_logger))
    yield manager
    manager.close()


def event(manager: PersistentSessionManager, action: str, model: Any, **other: Any) -> Any:
    """Return the event that something was done with a session."""
    told = {"session_id": model["id"], "path": model["path"], "kernel_id": model["kernel"]["id"]}
    return {"action": action, "namespace": manager.namespace, **told, **other}


def test_the_schema_is_one_of_jupyter_events() -> None:
    schema: Any = EventSchema(events._SCHEMA)
    assert schema.id == events.SCHEMA_ID
    assert schema.version == "1"
    assert schema._schema["personal-data"] is True
    # As Jupyter Server lays its own out: the end of the id is the place of the file.
    assert events.SCHEMA_ID.endswith(
        str(events._SCHEMA.relative_to(Path(events.__file__).parent / "event_schemas"))[:-5]
    )
    actions = schema.properties["action"]["enum"]
    assert actions == [events.CREATED, events.MOVED, events.CLOSED, events.ADOPTED]
    assert set(schema.properties) == {"action", "namespace", "session_id", "path", "kernel_id"}


async def test_a_session_is_created_moved_and_closed(
    manager: PersistentSessionManager, kept: Kept
) -> None:
    model = await manager.get_or_create_session(**NOTEBOOK)
    assert kept.take() == [event(manager, "created", model)]
    assert await manager.get_or_create_session(**NOTEBOOK) == model
    await manager.list_sessions()
    await manager.change_session(model["id"], name="n", type="console")
    assert kept.take() == []
    renamed = await manager.change_session(model["id"], path="b.ipynb")
    assert kept.take() == [event(manager, "moved", renamed)]
    moved = await manager.change_session(model["id"], kernel_name="python3")
    assert moved["kernel"]["id"] != model["kernel"]["id"]
    assert kept.take() == [event(manager, "moved", moved)]
    await manager.update_session(model["id"], path="c.ipynb")
    assert kept.take() == [event(manager, "moved", moved, path="c.ipynb")]
    await manager.delete_session(model["id"])
    assert kept.take() == [event(manager, "closed", moved, path="c.ipynb")]
    with pytest.raises(web.HTTPError):
        await manager.delete_session(model["id"])
    with pytest.raises(web.HTTPError):
        await manager.update_session(model["id"], path="d.ipynb")
    assert kept.take() == []


async def test_an_event_has_what_the_schema_says_and_the_schema_its_name(
    manager: PersistentSessionManager, kept: Kept
) -> None:
    await manager.create_session(**NOTEBOOK)
    (told,) = kept.told
    assert told["__schema__"] == events.SCHEMA_ID
    assert told["__schema_version__"] == "1"


async def test_a_session_on_a_kernel_of_another_is_created_and_closed_alone(
    manager: PersistentSessionManager, kept: Kept
) -> None:
    first = await manager.create_session(**NOTEBOOK)
    second = await manager.create_session(
        path="b.ipynb", type="notebook", name="", kernel_id=first["kernel"]["id"]
    )
    kept.take()
    await manager.delete_session(first["id"])
    assert kept.take() == [event(manager, "closed", first)]
    await manager.delete_session(second["id"])
    assert kept.take() == [event(manager, "closed", second)]


async def test_a_session_whose_kernel_is_gone_is_closed(
    manager: PersistentSessionManager, kernels: DummyKernelManager, kept: Kept
) -> None:
    listed, deleted, replaced = [
        await manager.create_session(path=path, type="notebook", name="") for path in "abc"
    ]
    kept.take()
    for model in (listed, deleted, replaced):
        kernels.die(model["kernel"]["id"])
    with pytest.raises(web.HTTPError, match="404"):
        await manager.delete_session(deleted["id"])
    assert kept.take() == [event(manager, "closed", deleted)]
    with pytest.raises(web.HTTPError, match="404"):
        await manager.get_session(session_id=listed["id"])
    await settle(manager)
    assert kept.take() == [event(manager, "closed", listed)]
    # By a create at its path, which takes its claim.
    new = await manager.create_session(path="c", type="notebook", name="")
    assert kept.take() == [
        event(manager, "closed", replaced),
        event(manager, "created", new),
    ]


async def test_what_was_not_saved_is_not_told(
    manager: PersistentSessionManager, kernels: DummyKernelManager, kept: Kept
) -> None:
    model = await manager.create_session(**NOTEBOOK)
    kept.take()
    refused: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("add", lambda: manager.create_session(path="b", type="notebook", name="")),
        ("mirror_change", lambda: manager.change_session(model["id"], path="c")),
        ("mirror_change", lambda: manager.change_session(model["id"], kernel_name="python3")),
    ]
    for verb, ask in refused:
        failing(manager, verb, InvalidValue("path", "is odd", "another"))
        with pytest.raises(InvalidValue):
            await ask()
        delattr(manager.store, verb)
    await settle(manager)
    kernels.start_error = RuntimeError("test")
    with pytest.raises(RuntimeError):
        await manager.create_session(path="d", type="notebook", name="")
    assert kept.take() == []


async def test_what_is_done_while_the_store_is_away_is_told_once(
    manager: PersistentSessionManager, kept: Kept
) -> None:
    with store_away(manager):
        model = await manager.create_session(**NOTEBOOK)
        await manager.change_session(model["id"], path="c")
        await manager.change_session(model["id"], kernel_name="python3")
        await manager.delete_session(model["id"])
    await assert_equal_after_renewal(manager)
    told = [(one["action"], one["session_id"], one["path"]) for one in kept.take()]
    assert told == [
        ("created", model["id"], "a.ipynb"),
        ("moved", model["id"], "c"),
        ("moved", model["id"], "c"),
        ("closed", model["id"], "c"),
    ]


@pytest.mark.parametrize("liveness", list(Liveness))
async def test_what_an_evicted_server_had_begun_to_create_is_adopted_if_its_kernel_lives(
    tmp_path: Path, event_logger: EventLogger, kept: Kept, liveness: Liveness
) -> None:
    manager = shared_manager(str(tmp_path / "a.db"), parent=Server(event_logger))
    kernels: Any = manager.kernel_manager.authority
    kernels.liveness = liveness
    half = record("half", SHARED, state=STARTING, kernel_id="k", server_id="two")
    manager.store.renew(server("two", SHARED.namespace), [], timeout=30)
    await manager.store.add(half)
    await manager.list_sessions()
    servers = manager.store.renew(server("three", SHARED.namespace), [], timeout=30)
    seen = [one for one in servers if one.server_id == "two"]
    # As the heartbeat does when it has found a dead one; and once more with the next renewal.
    for dead in (seen, []):
        unfinished = manager.store.evict(SHARED, dead, manager.server_id, timeout=30)
        manager.sessions.on_renewed(unfinished)
        await asyncio.sleep(0.05)
        await settle(manager)
    adopted = {
        "action": "adopted",
        "namespace": SHARED.namespace,
        "session_id": "half",
        "path": half.path,
        "kernel_id": "k",
    }
    assert kept.take() == ([adopted] if liveness is Liveness.ALIVE else [])
    manager.close()


async def test_a_create_on_a_gateway_is_told_when_it_is_finished(
    tmp_path: Path, event_logger: EventLogger, kept: Kept
) -> None:
    manager = shared_manager(str(tmp_path / "a.db"), parent=Server(event_logger))
    model = await manager.get_or_create_session(**NOTEBOOK)
    assert kept.take() == [
        {**event(manager, "created", model), "namespace": manager.namespace},
    ]
    failing(manager, "update", StoreUnavailable("test"))
    with pytest.raises(StoreUnavailable):
        await manager.create_session(path="b", type="notebook", name="")
    assert kept.take() == []
    del manager.store.update
    await settle(manager)
    manager.close()


def _handler_that_fails(event_logger: EventLogger) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("s3cr3t")

    event_logger.register_handler(Failing())


def _modifier_that_fails(event_logger: EventLogger) -> None:
    def fail(schema_id: str, data: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("s3cr3t")

    event_logger.add_modifier(modifier=fail)


def _modifier_that_breaks_the_schema(event_logger: EventLogger) -> None:
    def spoil(schema_id: str, data: dict[str, Any]) -> dict[str, Any]:
        return {"action": "s3cr3t"}

    event_logger.add_modifier(modifier=spoil)


@pytest.mark.parametrize(
    "spoil", [_handler_that_fails, _modifier_that_fails, _modifier_that_breaks_the_schema]
)
async def test_an_event_logger_that_fails_fails_no_request(
    manager: PersistentSessionManager,
    event_logger: EventLogger,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[EventLogger], None],
) -> None:
    spoil(event_logger)
    model = await manager.create_session(**NOTEBOOK)
    await manager.change_session(model["id"], path="b")
    await manager.change_session(model["id"], kernel_name="python3")
    await manager.delete_session(model["id"])
    assert await stored(manager) == []
    await settle(manager)
    told = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    for text, action in zip(told, ("created", "moved", "moved", "closed"), strict=True):
        assert f"Could not emit the event {action!r} of the session {model['id']}:" in text
        assert "s3cr3t" not in text


async def test_a_listener_hears_of_it(
    manager: PersistentSessionManager, event_logger: EventLogger
) -> None:
    heard: list[tuple[str, str]] = []

    async def listener(logger: EventLogger, schema_id: str, data: dict[str, Any]) -> None:
        heard.append((schema_id, data["action"]))

    event_logger.add_listener(schema_id=events.SCHEMA_ID, listener=listener)
    await manager.create_session(**NOTEBOOK)
    await event_logger.gather_listeners()
    assert heard == [(events.SCHEMA_ID, "created")]


async def test_two_managers_of_one_server_share_its_logger(
    event_logger: EventLogger, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    parent = Server(event_logger)
    one, two = make_manager(parent=parent), make_manager(parent=parent)
    for manager in (one, two):
        model = await manager.create_session(**NOTEBOOK)
        assert kept.take() == [event(manager, "created", model)]
        manager.close()
    assert "no events" not in caplog.text


class Refusing:
    """An event logger that takes no schema."""

    schemas: tuple[str, ...] = ()

    def register_event_schema(self, schema: Path) -> None:
        """Refuse it."""
        raise ValueError("s3cr3t")


async def test_without_an_event_logger_that_takes_them_there_are_no_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = make_manager(parent=Server(Refusing()))
    await manager.create_session(**NOTEBOOK)
    manager.close()
    assert "Sessions have no events: their schema was refused (ValueError)." in caplog.text
    for parent in (Server(None), LoggingConfigurable(), None):
        manager = make_manager(parent=parent)
        await manager.create_session(**NOTEBOOK)
        manager.close()


def test_the_installed_jupyter_events_is_one_that_takes_the_schema() -> None:
    assert tuple(map(int, version("jupyter_events").split(".")[:2])) >= (0, 12)
