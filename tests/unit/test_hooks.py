"""Subclasses of the session manager: what the stock handlers call on them, ours call too.

Jupyter's extensions override methods of the stock manager. The stock manager itself is the
measure here: each test of a result runs over it too, where it does what is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from jupyter_server.gateway.managers import GatewayMappingKernelManager
from jupyter_server.services.sessions.sessionmanager import SessionManager
from tornado import web

from tests.unit.fake_gateway import FakeGateway
from tests.unit.hook_servers import (
    GATEWAY,
    LOCAL,
    PUBLIC,
    STOCK,
    STOCK_GATEWAY,
    Serve,
    Server,
    recording,
    server_factory,
)

UNKNOWN_ID: Final = "0-0-0-0-0"
#: What closes the manager is called by no request.
CALLED: Final = [name for name in PUBLIC if name != "close"]
OURS: Final = pytest.mark.parametrize("over", [LOCAL, GATEWAY])
ALL: Final = pytest.mark.parametrize("over", [STOCK, LOCAL, GATEWAY])


@pytest.fixture
def serve(
    jp_configurable_serverapp: Callable[..., Any],
    gateway: FakeGateway,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Serve:
    # The stock class has one dict for all its instances.
    monkeypatch.setattr(GatewayMappingKernelManager, "_kernels", {})
    return server_factory(jp_configurable_serverapp, gateway, tmp_path)


async def each_request(server: Server, calls: list[str]) -> dict[str, list[str]]:
    """Send each kind of request, and return what it calls on the manager, in order."""
    called: dict[str, list[str]] = {}

    async def send(what: str, method: str, session_id: str, body: Any, code: int) -> Any:
        calls.clear()
        answer = await server.send(method, session_id, body)
        called[what] = list(calls)
        assert answer.code == code, (what, answer)
        return answer.body

    def new(path: str, **kernel: str) -> dict[str, Any]:
        return {"path": path, "name": "n", "type": "notebook", "kernel": kernel}

    one = await send("POST a new path", "POST", "", new("a.ipynb", name="python3"), 201)
    await send("POST a path that is there", "POST", "", new("a.ipynb", name="python3"), 201)
    kernel_id = one["kernel"]["id"]
    await send("POST onto a kernel", "POST", "", new("b.ipynb", id=kernel_id), 201)
    other = await send("POST another path", "POST", "", new("c.ipynb", name="python3"), 201)
    await send("GET all", "GET", "", None, 200)
    await send("GET one", "GET", one["id"], None, 200)
    await send("PATCH the path", "PATCH", one["id"], {"path": "d.ipynb"}, 200)
    await send("PATCH nothing", "PATCH", one["id"], {}, 200)
    by_name, by_id = {"kernel": {"name": "python3"}}, {"kernel": {"id": kernel_id}}
    await send("PATCH to a new kernel", "PATCH", other["id"], by_name, 200)
    await send("PATCH to another's kernel", "PATCH", other["id"], by_id, 200)
    await send("DELETE", "DELETE", other["id"], None, 204)
    await send("GET an unknown one", "GET", UNKNOWN_ID, None, 404)
    await send("PATCH an unknown one", "PATCH", UNKNOWN_ID, {"path": "e.ipynb"}, 404)
    await send("DELETE an unknown one", "DELETE", UNKNOWN_ID, None, 404)
    return called


_stock_calls: dict[str, dict[str, list[str]]] = {}


async def stock_calls(serve: Serve, over: str) -> dict[str, list[str]]:
    """Return what each request calls on the stock manager."""
    if over not in _stock_calls:
        calls: list[str] = []
        async with serve(over, **recording(calls, *PUBLIC)) as server:
            _stock_calls[over] = await each_request(server, calls)
    return _stock_calls[over]


def missing(
    stock: dict[str, list[str]], ours: dict[str, list[str]], *names: str
) -> dict[str, set[str]]:
    """Return what the stock manager's requests call, and ours do not."""
    asked = {what: set(calls) & set(names) for what, calls in stock.items()}
    return {what: asked[what] - set(ours[what]) for what in asked if asked[what] - set(ours[what])}


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("over", "like"),
    [(LOCAL, STOCK), (GATEWAY, STOCK), (GATEWAY, STOCK_GATEWAY)],
    ids=["local", "gateway-like-local", "gateway"],
)
async def test_every_request_calls_what_it_calls_on_the_stock_manager(
    serve: Serve, over: str, like: str, store: str
) -> None:
    stock = await stock_calls(serve, like)
    calls: list[str] = []
    async with serve(over, store=store, **recording(calls, *PUBLIC)) as server:
        ours = await each_request(server, calls)
    assert missing(stock, ours, *CALLED) == {}


@OURS
@pytest.mark.parametrize("name", CALLED)
async def test_a_method_that_is_overridden_alone_is_called_too(
    serve: Serve, over: str, name: str
) -> None:
    stock = await stock_calls(serve, STOCK)
    calls: list[str] = []
    async with serve(over, **recording(calls, name)) as server:
        ours = await each_request(server, calls)
    assert missing(stock, ours, name) == {}


async def test_the_stock_handlers_call_each_of_these(serve: Serve) -> None:
    """Else the tests above would ask for nothing."""
    called = set().union(*(await stock_calls(serve, STOCK)).values())
    assert called >= {
        "session_exists",
        "get_session",
        "list_sessions",
        "create_session",
        "save_session",
        "update_session",
        "delete_session",
        "start_kernel_for_session",
        "get_kernel_env",
        "row_to_model",
        "kernel_culled",
        "new_session_id",
    }


# What an override says, is done.


@ALL
async def test_session_exists_says_no(serve: Serve, over: str) -> None:
    """Then a second session is created at the path."""

    async def no(inherited: Any, *args: Any, **kwargs: Any) -> bool:
        return False

    async with serve(over, session_exists=no) as server:
        first = await server.post("a.ipynb")
        second = await server.post("a.ipynb")
        assert first["id"] != second["id"]
        assert set(await server.list()) == {first["id"], second["id"]}


@ALL
async def test_session_exists_says_yes(serve: Serve, over: str) -> None:
    """Then `get_session` is asked for it, and nothing is created."""
    wanted = {"a.ipynb": "b.ipynb"}

    async def yes(inherited: Any, path: str) -> bool:
        return path in wanted or bool(await inherited(path=path))

    async def get(inherited: Any, **kwargs: Any) -> Any:
        if "path" in kwargs:
            kwargs["path"] = wanted[kwargs["path"]]
        return await inherited(**kwargs)

    async with serve(over, session_exists=yes, get_session=get) as server:
        answer = await server.send("POST", body={"path": "a.ipynb", "type": "notebook"})
        assert answer.code == 404, "there is none yet"
        assert server.alive() == set()
        other = await server.post("b.ipynb")
        assert (await server.post("a.ipynb"))["id"] == other["id"]
        assert server.alive() == {other["kernel"]["id"]}


@ALL
async def test_what_get_session_adds(serve: Serve, over: str) -> None:
    async def get(inherited: Any, **kwargs: Any) -> Any:
        return {**await inherited(**kwargs), "added": 1}

    async with serve(over, get_session=get) as server:
        model = await server.post("a.ipynb")
        assert model["added"] == 1, "a new one"
        assert (await server.post("a.ipynb"))["added"] == 1, "one that was there"
        assert (await server.get(model["id"]))["added"] == 1
        assert (await server.patch(model["id"], path="b.ipynb"))["added"] == 1
        assert (await server.patch(model["id"]))["added"] == 1, "nothing is changed"
        assert (await server.patch(model["id"], kernel={"name": "other"}))["added"] == 1


@ALL
async def test_get_session_refuses(serve: Serve, over: str) -> None:
    """Then nothing can be done with the session by its id."""
    refused: set[str] = set()

    async def get(inherited: Any, **kwargs: Any) -> Any:
        model = await inherited(**kwargs)
        if model["id"] in refused:
            raise web.HTTPError(403)
        return model

    async with serve(over, get_session=get) as server:
        model = await server.post("a.ipynb")
        refused.add(model["id"])
        assert (await server.send("GET", model["id"])).code == 403
        assert (await server.send("DELETE", model["id"])).code == 403
        for change in ({"path": "b.ipynb"}, {"kernel": {"name": "python3"}}, {}):
            assert (await server.send("PATCH", model["id"], change)).code == 403
        refused.clear()
        assert await server.get(model["id"]) == model
        assert server.alive() == {model["kernel"]["id"]}


@ALL
async def test_list_sessions_leaves_one_out(serve: Serve, over: str) -> None:
    async def only_mine(inherited: Any) -> Any:
        return [model for model in await inherited() if model["path"].startswith("mine")]

    async with serve(over, list_sessions=only_mine) as server:
        mine = await server.post("mine.ipynb")
        await server.post("another's.ipynb")
        assert set(await server.list()) == {mine["id"]}


@ALL
async def test_create_session_changes_the_path_and_adds_a_key(serve: Serve, over: str) -> None:
    async def create(inherited: Any, *args: Any, **kwargs: Any) -> Any:
        path = "folder/" + kwargs.pop("path")
        return {**await inherited(*args, path=path, **kwargs), "added": 1}

    async with serve(over, create_session=create) as server:
        model = await server.post("a.ipynb")
        assert (model["path"], model["added"]) == ("folder/a.ipynb", 1)
        assert (await server.get(model["id"]))["path"] == "folder/a.ipynb"
        assert server.alive() == {model["kernel"]["id"]}


@ALL
async def test_create_session_returns_a_session_that_is_there(serve: Serve, over: str) -> None:
    there: list[Any] = []

    async def create(inherited: Any, *args: Any, **kwargs: Any) -> Any:
        return there[0] if there else await inherited(*args, **kwargs)

    async with serve(over, create_session=create) as server:
        there.append(await server.post("a.ipynb"))
        assert await server.post("b.ipynb") == there[0]
        assert set(await server.list()) == {there[0]["id"]}


@ALL
async def test_save_session_changes_the_name(serve: Serve, over: str) -> None:
    saved = []

    async def save(inherited: Any, session_id: str, **kwargs: Any) -> Any:
        saved.append((session_id, kwargs["path"], kwargs["type"], kwargs["kernel_id"]))
        return await inherited(session_id, **{**kwargs, "name": "changed"})

    async with serve(over, save_session=save) as server:
        model = await server.post("a.ipynb")
        kernel_id = model["kernel"]["id"]
        assert saved == [(model["id"], "a.ipynb", "notebook", kernel_id)]
        assert model["name"] == "changed"
        assert (await server.get(model["id"]))["name"] == "changed"
        attached = await server.post("b.ipynb", kernel={"id": kernel_id})
        assert saved[1:] == [(attached["id"], "b.ipynb", "notebook", kernel_id)]
        assert (await server.get(attached["id"]))["name"] == "changed"


async def kernels_of_sessions(server: Server) -> set[str]:
    return {model["kernel"]["id"] for model in (await server.list()).values()}


@OURS
@pytest.mark.parametrize("stage", ["before", "after"])
async def test_save_session_fails(serve: Serve, over: str, stage: str) -> None:
    """Then no kernel is left without a session. The stock manager leaves one."""
    failing = True

    async def save(inherited: Any, *args: Any, **kwargs: Any) -> Any:
        if failing and stage == "before":
            raise RuntimeError("test")
        model = await inherited(*args, **kwargs)
        if failing:
            raise RuntimeError("test")
        return model

    async with serve(over, save_session=save) as server:
        answer = await server.send("POST", body={"path": "a.ipynb", "type": "notebook"})
        assert answer.code == 500
        await asyncio.sleep(0.05)
        # What was stored before it failed may be there, with its kernel, or not.
        assert server.alive() == await kernels_of_sessions(server)
        assert stage == "after" or server.alive() == set()
        failing = False
        model = await server.post("a.ipynb")
        assert set(await server.list()) == {model["id"]}
        assert server.alive() == {model["kernel"]["id"]}


@ALL
async def test_update_session_rewrites_the_path_and_sets_the_name(serve: Serve, over: str) -> None:
    async def update(inherited: Any, session_id: str, **kwargs: Any) -> None:
        if "path" in kwargs:
            kwargs = {**kwargs, "path": kwargs["path"].upper(), "name": "set"}
        await inherited(session_id, **kwargs)

    async with serve(over, update_session=update) as server:
        model = await server.post("a.ipynb")
        changed = await server.patch(model["id"], path="b.ipynb")
        assert (changed["path"], changed["name"]) == ("B.IPYNB", "set")
        assert await server.get(model["id"]) == changed
        moved = await server.patch(model["id"], path="c.ipynb", kernel={"name": "python3"})
        assert (moved["path"], moved["name"]) == ("C.IPYNB", "set")
        assert moved["kernel"]["id"] != model["kernel"]["id"]


async def do_nothing(inherited: Any, session_id: str, **kwargs: Any) -> None:
    """Stand for ``update_session``."""


@ALL
async def test_update_session_does_nothing(serve: Serve, over: str) -> None:
    """Then the answer is the session as it is."""
    async with serve(over, update_session=do_nothing) as server:
        model = await server.post("a.ipynb")
        assert await server.patch(model["id"], path="b.ipynb") == model


@OURS
async def test_update_session_leaves_a_new_kernel_alone(serve: Serve, over: str) -> None:
    """Then nobody has it: it is shut down, and the session's own stays."""
    async with serve(over, update_session=do_nothing) as server:
        model = await server.post("a.ipynb")
        assert await server.patch(model["id"], kernel={"name": "other"}) == model
        assert server.alive() == {model["kernel"]["id"]}


@ALL
async def test_update_session_chooses_another_kernel(serve: Serve, over: str) -> None:
    """The kernel that the session had is shut down, and the one that it got stays."""
    chosen: list[str] = []

    async def update(inherited: Any, session_id: str, **kwargs: Any) -> None:
        await inherited(session_id, **{**kwargs, "kernel_id": chosen[0]})

    async with serve(over, update_session=update) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        chosen.append(other["kernel"]["id"])
        changed = await server.patch(model["id"], path="c.ipynb")
        assert (changed["path"], changed["kernel"]["id"]) == ("c.ipynb", chosen[0])
        assert server.alive() == {chosen[0]}


@ALL
@pytest.mark.parametrize("by", ["name", "id"])
async def test_the_old_kernel_runs_until_update_session_has_returned(
    serve: Serve, over: str, by: str
) -> None:
    seen: list[set[str]] = []

    async def update(inherited: Any, session_id: str, **kwargs: Any) -> None:
        seen.append(server.alive())
        await inherited(session_id, **kwargs)
        await asyncio.sleep(0.02)
        seen.append(server.alive())

    async with serve(over, update_session=update) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        old, others = model["kernel"]["id"], other["kernel"]["id"]
        kernel = {"name": "python3"} if by == "name" else {"id": others}
        moved = await server.patch(model["id"], kernel=kernel)
        new = moved["kernel"]["id"]
        assert new != old
        assert seen == [{old, others, new}] * 2
        assert server.alive() == {others, new}, "the old one is shut down then"


@OURS
async def test_update_session_from_python_leaves_the_old_kernel_running(
    serve: Serve, over: str
) -> None:
    async with serve(over) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        target = other["kernel"]["id"]
        await server.manager.update_session(model["id"], kernel_id=target)
        assert (await server.get(model["id"]))["kernel"]["id"] == target
        assert server.alive() == {model["kernel"]["id"], target}


@OURS
@pytest.mark.parametrize("by", ["name", "id"])
async def test_an_old_kernel_that_another_session_uses_stays(
    serve: Serve, over: str, by: str
) -> None:
    """The stock handler shuts it down."""
    calls: list[str] = []
    async with serve(over, **recording(calls, "update_session")) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        old, others = model["kernel"]["id"], other["kernel"]["id"]
        second = await server.post("c.ipynb", kernel={"id": old})
        kernel = {"name": "python3"} if by == "name" else {"id": others}
        moved = await server.patch(model["id"], kernel=kernel)
        assert calls == ["update_session"]
        assert server.alive() == {old, others, moved["kernel"]["id"]}
        assert (await server.get(second["id"]))["kernel"]["id"] == old


@OURS
@pytest.mark.parametrize("by", ["name", "id"])
@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("test"), 500), (web.HTTPError(403), 403)], ids=["500", "403"]
)
async def test_update_session_fails(
    serve: Serve, over: str, by: str, error: Exception, code: int
) -> None:
    """Then a kernel that was started for it is shut down, and nothing else has changed.

    The stock handler leaves the new kernel running.
    """
    failing = True

    async def update(inherited: Any, session_id: str, **kwargs: Any) -> None:
        if failing:
            raise error
        await inherited(session_id, **kwargs)

    async with serve(over, update_session=update) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        old, others = model["kernel"]["id"], other["kernel"]["id"]
        kernel = {"name": "python3"} if by == "name" else {"id": others}
        answer = await server.send("PATCH", model["id"], {"kernel": kernel})
        assert answer.code == code
        await asyncio.sleep(0.05)
        assert server.alive() == {old, others}
        assert await server.get(model["id"]) == model
        failing = False
        moved = await server.patch(model["id"], kernel=kernel)
        assert server.alive() == {others, moved["kernel"]["id"]}


@OURS
@pytest.mark.parametrize("by", ["name", "id"])
async def test_update_session_fails_when_the_session_has_moved(
    serve: Serve, over: str, by: str
) -> None:
    """Then the session has its old kernel or the new one, and no kernel is left without one."""

    async def update(inherited: Any, session_id: str, **kwargs: Any) -> None:
        await inherited(session_id, **kwargs)
        raise RuntimeError("test")

    async with serve(over, update_session=update) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        kernel = {"name": "python3"} if by == "name" else {"id": other["kernel"]["id"]}
        answer = await server.send("PATCH", model["id"], {"kernel": kernel})
        assert answer.code == 500
        await asyncio.sleep(0.05)
        assert set(await server.list()) == {model["id"], other["id"]}
        assert server.alive() == await kernels_of_sessions(server)


@ALL
async def test_update_session_refuses_a_rename(serve: Serve, over: str) -> None:
    async def update(inherited: Any, session_id: str, **kwargs: Any) -> None:
        raise web.HTTPError(403)

    async with serve(over, update_session=update) as server:
        model = await server.post("a.ipynb")
        assert (await server.send("PATCH", model["id"], {"path": "b.ipynb"})).code == 403
        assert await server.get(model["id"]) == model


@ALL
async def test_delete_session_refuses(serve: Serve, over: str) -> None:
    async def delete(inherited: Any, session_id: str) -> None:
        raise web.HTTPError(403)

    async with serve(over, delete_session=delete) as server:
        model = await server.post("a.ipynb")
        assert (await server.send("DELETE", model["id"])).code == 403
        assert await server.list() == {model["id"]: model}
        assert server.alive() == {model["kernel"]["id"]}


@ALL
async def test_new_session_id_chooses_the_ids(serve: Serve, over: str) -> None:
    numbers = count()

    def new_id(inherited: Any) -> str:
        return f"mine-0-0-0-{next(numbers)}"

    async with serve(over, new_session_id=new_id) as server:
        model = await server.post("a.ipynb")
        assert model["id"].startswith("mine-0-0-0-")
        attached = await server.post("b.ipynb", kernel={"id": model["kernel"]["id"]})
        assert attached["id"].startswith("mine-0-0-0-")
        assert set(await server.list()) == {model["id"], attached["id"]}
        moved = await server.patch(model["id"], kernel={"name": "python3"})
        assert moved["id"] == model["id"]


@ALL
async def test_get_kernel_env_is_what_a_kernel_starts_with(serve: Serve, over: str) -> None:
    asked = []

    def env(inherited: Any, path: str, name: Any = None) -> dict[str, str]:
        asked.append(path)
        # The name of what a gateway is told, too.
        return {**inherited(path, name), "KERNEL_TEST": f"of {path}"}

    async with serve(over, get_kernel_env=env) as server:
        model = await server.post("a.ipynb")
        assert server.env_of(model["kernel"]["id"])["KERNEL_TEST"] == "of a.ipynb"
        moved = await server.patch(model["id"], kernel={"name": "python3"})
        assert server.env_of(moved["kernel"]["id"])["KERNEL_TEST"] == "of a.ipynb"
        assert set(asked) == {"a.ipynb"}


@ALL
async def test_start_kernel_for_session_chooses_the_specification(serve: Serve, over: str) -> None:
    started = []

    async def start(
        inherited: Any,
        session_id: str,
        path: Any,
        name: Any,
        type: Any,
        kernel_name: Any,
        **kw: Any,
    ) -> Any:
        started.append(session_id)
        return await inherited(session_id, path, name, type, "chosen", **kw)

    async with serve(over, start_kernel_for_session=start) as server:
        model = await server.post("a.ipynb")
        assert model["kernel"]["name"] == "chosen"
        moved = await server.patch(model["id"], kernel={"name": "python3"})
        assert moved["kernel"]["name"] == "chosen"
        assert started == [model["id"]] * 2


@ALL
async def test_start_kernel_for_session_starts_one_in_its_own_way(serve: Serve, over: str) -> None:
    """Under an id that nobody else has chosen."""

    async def start(inherited: Any, *args: Any, **kwargs: Any) -> str:
        started: str = await server.app.kernel_manager.start_kernel(kernel_name="own")
        return started

    async with serve(over, start_kernel_for_session=start) as server:
        model = await server.post("a.ipynb")
        assert model["kernel"]["name"] == "own"
        moved = await server.patch(model["id"], kernel={"name": "python3"})
        assert moved["kernel"]["name"] == "own"
        assert server.alive() == {moved["kernel"]["id"]}


@ALL
async def test_start_kernel_for_session_fails(serve: Serve, over: str) -> None:
    failing = True

    async def start(inherited: Any, *args: Any, **kwargs: Any) -> Any:
        if failing:
            raise RuntimeError("test")
        return await inherited(*args, **kwargs)

    async with serve(over, start_kernel_for_session=start) as server:
        answer = await server.send("POST", body={"path": "a.ipynb", "type": "notebook"})
        assert answer.code == 500
        assert await server.list() == {}
        failing = False
        model = await server.post("a.ipynb")
        failing = True
        answer = await server.send("PATCH", model["id"], {"kernel": {"name": "other"}})
        # Older releases of Jupyter Server answer 500.
        assert answer.code == 501 or (over, answer.code) == (STOCK, 500)
        assert await server.get(model["id"]) == model
        assert server.alive() == {model["kernel"]["id"]}


class DocumentSessions(SessionManager):
    """As jupyter-server-documents has it: a document's room is connected to its kernel."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.rooms: dict[str, str] = {}

    def connect(self, session_id: str, kernel_id: str) -> None:
        """Connect a room; the kernel has to be there."""
        self.kernel_manager.get_kernel(kernel_id)
        self.rooms[session_id] = kernel_id

    async def create_session(
        self,
        path: str | None = None,
        name: Any = None,
        type: str | None = None,
        kernel_name: Any = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Connect the room of the new session."""
        model = await super().create_session(path, name, type, kernel_name, kernel_id)
        self.connect(model["id"], kernel_id or model["kernel"]["id"])
        return model

    async def update_session(self, session_id: str, **update: Any) -> None:
        """Connect the room to the new kernel, while the session has the old one."""
        if "kernel_id" in update:
            before = await self.get_session(session_id=session_id)  # type: ignore[no-untyped-call]
            assert before["kernel"]["id"] == self.rooms[session_id]
            self.kernel_manager.get_kernel(self.rooms.pop(session_id))
            self.connect(session_id, update["kernel_id"])
        await super().update_session(session_id, **update)  # type: ignore[no-untyped-call]

    async def delete_session(self, session_id: str) -> None:
        """Disconnect the room first."""
        model = await self.get_session(session_id=session_id)  # type: ignore[no-untyped-call]
        assert self.rooms.pop(session_id) == model["kernel"]["id"]
        self.kernel_manager.get_kernel(model["kernel"]["id"])
        await super().delete_session(session_id)  # type: ignore[no-untyped-call]


@ALL
async def test_a_document_follows_its_session(serve: Serve, over: str) -> None:
    async with serve(over, mixin=DocumentSessions) as server:
        rooms = server.manager.rooms
        one, two = await server.post("a.ipynb"), await server.post("b.ipynb")
        assert (await server.post("a.ipynb"))["id"] == one["id"]
        kernels = {one["id"]: one["kernel"]["id"], two["id"]: two["kernel"]["id"]}
        assert rooms == kernels
        third = await server.post("c.ipynb", kernel={"id": kernels[two["id"]]})
        kernels[third["id"]] = kernels[two["id"]]
        assert rooms == kernels
        await server.patch(one["id"], path="d.ipynb", name="d.ipynb")
        assert rooms == kernels
        moved = await server.patch(one["id"], kernel={"name": "python3"})
        kernels[one["id"]] = moved["kernel"]["id"]
        assert rooms == kernels
        moved = await server.patch(one["id"], kernel={"id": kernels[two["id"]]})
        kernels[one["id"]] = moved["kernel"]["id"]
        assert rooms == kernels
        assert server.alive() == set(kernels.values()), "what nobody uses has gone"
        assert (await server.send("DELETE", one["id"])).code == 204
        assert set(rooms) == {two["id"], third["id"]}


# The model of a session, and whether its kernel was culled.


@ALL
async def test_what_row_to_model_adds(serve: Serve, over: str) -> None:
    async def model_of(inherited: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
        model = await inherited(row, *args, **kwargs)
        return model and {**model, "name": "shown", "added": row["path"]}

    async with serve(over, row_to_model=model_of) as server:
        model = await server.post("a.ipynb")
        for shown in (
            model,
            await server.post("a.ipynb"),
            await server.get(model["id"]),
            (await server.list())[model["id"]],
        ):
            assert (shown["name"], shown["added"]) == ("shown", "a.ipynb")
        attached = await server.post("b.ipynb", kernel={"id": model["kernel"]["id"]})
        assert (attached["name"], attached["added"]) == ("shown", "b.ipynb")
        moved = await server.patch(model["id"], path="c.ipynb", kernel={"name": "python3"})
        assert (moved["name"], moved["added"]) == ("shown", "c.ipynb")


@ALL
async def test_row_to_model_returns_another_model(serve: Serve, over: str) -> None:
    async def model_of(inherited: Any, row: Any, *args: Any, **kwargs: Any) -> Any:
        kernel = {"id": row["kernel_id"], "name": "own"}
        return {"id": row["session_id"], "path": row["path"], "kernel": kernel}

    async with serve(over, row_to_model=model_of) as server:
        model = await server.post("a.ipynb")
        (kernel_id,) = server.alive()
        assert model == {
            "id": model["id"],
            "path": "a.ipynb",
            "kernel": {"id": kernel_id, "name": "own"},
        }
        assert await server.post("a.ipynb") == model
        assert await server.get(model["id"]) == model
        assert await server.list() == {model["id"]: model}
        assert await server.patch(model["id"], path="b.ipynb") == {**model, "path": "b.ipynb"}


@ALL
async def test_row_to_model_says_that_a_session_is_gone(serve: Serve, over: str) -> None:
    hidden: set[str] = set()

    async def model_of(inherited: Any, row: Any, tolerate_culled: bool = False) -> Any:
        if row["session_id"] in hidden:
            if tolerate_culled:
                return None
            raise KeyError("test")
        return await inherited(row, tolerate_culled=tolerate_culled)

    async with serve(over, row_to_model=model_of) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        hidden.add(model["id"])
        assert set(await server.list()) == {other["id"]}
        assert (await server.send("GET", model["id"])).code == 404
        assert (await server.send("PATCH", model["id"], {"path": "c.ipynb"})).code == 404
        by_name = {"kernel": {"name": "python3"}}
        assert (await server.send("PATCH", model["id"], by_name)).code == 404
        assert (await server.send("DELETE", model["id"])).code == 404
        kernels = {model["kernel"]["id"], other["kernel"]["id"]}
        assert server.alive() == kernels
        second = await server.post("a.ipynb")
        assert second["id"] != model["id"]
        assert second["kernel"]["id"] not in kernels
        assert set(await server.list()) == {other["id"], second["id"]}


def culling(culled: dict[str, bool], is_async: bool) -> Callable[..., Any]:
    """Return an override of `kernel_culled` that says what it is told, else what is so."""

    async def answer(inherited: Any, kernel_id: str) -> Any:
        return culled[kernel_id] if kernel_id in culled else await inherited(kernel_id)

    def plain(inherited: Any, kernel_id: str) -> Any:
        return culled[kernel_id] if kernel_id in culled else inherited(kernel_id)

    return answer if is_async else plain


ASYNC_OR_PLAIN: Final = pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])


@pytest.mark.parametrize("over", [STOCK, LOCAL])
@ASYNC_OR_PLAIN
async def test_kernel_culled_says_yes_of_a_live_kernel(
    serve: Serve, over: str, is_async: bool
) -> None:
    """Then its sessions are gone."""
    culled: dict[str, bool] = {}
    async with serve(over, kernel_culled=culling(culled, is_async)) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        gone, renamed = await server.post("c.ipynb"), await server.post("d.ipynb")
        for one in (model, gone, renamed):
            culled[one["kernel"]["id"]] = True
        second = await server.post("a.ipynb")
        assert second["id"] != model["id"]
        assert second["kernel"]["id"] != model["kernel"]["id"]
        assert (await server.send("GET", gone["id"])).code == 404
        assert (await server.send("PATCH", renamed["id"], {"path": "e.ipynb"})).code == 404
        assert set(await server.list()) == {other["id"], second["id"]}
        assert other["kernel"]["id"] in server.alive()


@ASYNC_OR_PLAIN
async def test_kernel_culled_says_yes_of_a_gateways_live_kernel(
    serve: Serve, is_async: bool
) -> None:
    """Then its state is unknown here; that it is gone is the gateway's to say."""
    culled: dict[str, bool] = {}
    async with serve(GATEWAY, kernel_culled=culling(culled, is_async)) as server:
        model = await server.post("a.ipynb")
        culled[model["kernel"]["id"]] = True
        for shown in (
            (await server.list())[model["id"]],
            await server.get(model["id"]),
            await server.post("a.ipynb"),
            await server.patch(model["id"], path="b.ipynb"),
        ):
            assert shown["id"] == model["id"]
            assert shown["kernel"]["id"] == model["kernel"]["id"]
            assert shown["kernel"]["execution_state"] == "unknown"
        culled.clear()
        assert (await server.get(model["id"]))["kernel"]["execution_state"] == "idle"


@pytest.mark.parametrize("over", [STOCK, STOCK_GATEWAY, LOCAL, GATEWAY])
@ASYNC_OR_PLAIN
async def test_kernel_culled_says_no_of_a_kernel_that_is_gone(
    serve: Serve, over: str, is_async: bool
) -> None:
    """Then its session is kept, and is there when the kernel is.

    Until then the stock manager answers every list of local kernels by a 404; here the other
    sessions are shown.
    """
    culled: dict[str, bool] = {}
    async with serve(over, kernel_culled=culling(culled, is_async)) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        kernel_id = model["kernel"]["id"]
        server.kill(kernel_id)
        culled[kernel_id] = False
        await server.send("GET", model["id"])
        await server.send("GET")
        await asyncio.sleep(0.05)
        if over in {LOCAL, GATEWAY}:
            assert other["id"] in await server.list()
        await server.revive(kernel_id)
        culled.clear()
        assert set(await server.list()) == {model["id"], other["id"]}


@OURS
async def test_kernel_culled_says_what_is_so(serve: Serve, over: str) -> None:
    """A session whose kernel is gone goes, whether the method is overridden or not."""
    async with serve(over, kernel_culled=culling({}, True)) as server:
        model, other = await server.post("a.ipynb"), await server.post("b.ipynb")
        server.kill(model["kernel"]["id"])
        assert set(await server.list()) == {other["id"]}
        assert (await server.send("GET", model["id"])).code == 404
        assert (await server.post("a.ipynb"))["id"] != model["id"]
