"""What a client gives for an id, a name or a path: where it leads, and what the log has of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from jupyter_server import version_info
from jupyter_server.serverapp import ServerApp
from tornado import web
from tornado.httpclient import AsyncHTTPClient

from jupyter_session_store.kernels.gateway import api
from jupyter_session_store.kernels.gateway.manager import PersistentGatewayKernelManager
from jupyter_session_store.records import Liveness, is_plain_id, printable
from jupyter_session_store.testing import record
from tests.unit.fake_gateway import FakeGateway
from tests.unit.hook_servers import (
    GATEWAY,
    LOCAL,
    STOCK,
    STOCK_GATEWAY,
    Answer,
    Serve,
    Server,
    server_factory,
)

#: Ids that may lead elsewhere in a gateway's URL, or in the name of a file.
LEADING: Final = [
    ".",
    "..",
    "../../secret/path",
    "..\\x",
    "a/b",
    "/",
    "%2e%2e",
    "..%2f..%2fsecret",
    "%2E",
    "a%2Fb",
    "a?b",
    "a#b",
    "a\nb",
    "a\r\nb",
    "a\tb",
    "\x1b[31m",
    "a\x85b",
    "a\u2028b",
    "mine\n",
]
PLAIN: Final = [
    *("mine", "a-b_c", "0b5c7c4e-6a4f-4f3e-9e8c-2f8d6b8b7a11", "_", "-", "é-1", "a.b..c"),
    *("a:b", "spark@1", "a b", "a;b", "~x", ".x"),
]
#: How a line of a log begins that somebody has made up.
FORGED: Final = "\n[E 2026-01-01 ServerApp] forged"
BODY: Final[dict[str, Any]] = {"type": "notebook", "name": "n", "kernel": {"name": "python3"}}


@pytest.fixture
def serve(
    jp_configurable_serverapp: Callable[..., ServerApp], gateway: FakeGateway, tmp_path: Path
) -> Serve:
    return server_factory(jp_configurable_serverapp, gateway, tmp_path)


async def post_kernel(server: Server, body: Any) -> Answer:
    """Send a POST to ``/api/kernels``."""
    response = await AsyncHTTPClient().fetch(
        f"{server.url}api/kernels",
        method="POST",
        body=json.dumps(body),
        headers={"Authorization": f"token {server.app.identity_provider.token}"},
        raise_error=False,
    )
    return Answer(response.code, json.loads(response.body))


@pytest.mark.parametrize("given", LEADING)
def test_ids_that_may_lead_elsewhere(given: str) -> None:
    assert not is_plain_id(given)


@pytest.mark.parametrize("given", PLAIN)
def test_ids_that_lead_to_a_kernel(given: str) -> None:
    assert is_plain_id(given)


@pytest.mark.parametrize("over", [LOCAL, GATEWAY, STOCK_GATEWAY])
async def test_an_id_that_may_lead_elsewhere_is_refused_before_anybody_is_asked(
    serve: Serve, gateway: FakeGateway, over: str
) -> None:
    async with serve(over, ours=True) as server:
        session = await server.post("a.ipynb")
        asked, requested = list(gateway.asked), list(gateway.requested)
        for given in LEADING:
            kernel = {"id": given, "name": "python3"}
            posted = await server.send("POST", body={**BODY, "path": "b.ipynb", "kernel": kernel})
            assert posted.code == 400, given
            patched = await server.send("PATCH", session["id"], {"kernel": kernel})
            assert patched.code == 400, given
            assert "secret" not in posted.body["message"]
            if over != LOCAL:
                started = await post_kernel(server, {"name": "python3", "kernel_id": given})
                assert started.code == 400, given
        for given in ("", "x" * 256):
            patched = await server.send("PATCH", session["id"], {"kernel": {"id": given}})
            assert patched.code == 400, given
        if over != LOCAL:
            bodies: list[Any] = [
                [],
                {"kernel_id": 7},
                {"kernel_id": ["a"]},
                {"name": 7},
                {"path": 7},
            ]
            for body in bodies:
                assert (await post_kernel(server, body)).code == 400, body
        assert (gateway.asked, gateway.requested) == (asked, requested)
        assert server.alive() == {session["kernel"]["id"]}


async def test_plain_ids_stay_accepted(serve: Serve) -> None:
    async with serve(GATEWAY) as server:
        for given in PLAIN:
            kernel = {"id": given, "name": "python3"}
            model = await server.post(f"{given}.ipynb", kernel=kernel)
            assert model["kernel"]["id"] == given
        started = await post_kernel(server, {"name": "python3", "kernel_id": "another"})
        assert started.code == 201
        # Before, Jupyter Server's own handler did not look at the id.
        assert started.body["id"] == "another" or version_info < (2, 20)


async def test_a_gateway_is_never_asked_about_a_row_that_leads_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a row may have been edited by hand, or imported."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a request was made")

    monkeypatch.setattr(api, "_http_client", refuse)
    for given in [*LEADING, ""]:
        assert (await api.get_status(given)).liveness is Liveness.UNKNOWN
        assert await api.shut_down(given) is Liveness.UNKNOWN


async def test_the_kernel_manager_refuses_such_an_id_by_itself(gateway: FakeGateway) -> None:
    kernels = PersistentGatewayKernelManager()
    for given in LEADING:
        with pytest.raises(web.HTTPError, match="400"):
            await kernels.start_kernel(kernel_id=given, kernel_name="python3")
    assert gateway.requested == []


@pytest.mark.parametrize("over", [STOCK, LOCAL, GATEWAY, STOCK_GATEWAY])
async def test_an_empty_id_is_no_id(serve: Serve, over: str) -> None:
    """It is, to Jupyter Server's own session manager, with kernels on a gateway."""
    async with serve(over, ours=over != STOCK) as server:
        for kernel in ({"id": "", "name": "python3"}, {"id": ""}, {"id": "", "name": ""}):
            model = await server.post("a.ipynb", kernel=kernel)
            assert len(server.alive()) == 1
            assert (await server.send("DELETE", model["id"])).code == 204
            assert server.alive() == set()
            assert await server.list() == {}


async def test_an_empty_id_of_a_kernel_is_no_id(serve: Serve, gateway: FakeGateway) -> None:
    async with serve(GATEWAY) as server:
        started = await post_kernel(server, {"name": "python3", "kernel_id": ""})
        assert started.code == 201
        assert server.alive() == {started.body["id"]} != {""}
        assert "" not in gateway.asked


@pytest.mark.parametrize("over", [LOCAL, GATEWAY, STOCK_GATEWAY])
async def test_nothing_that_a_client_gives_begins_a_line_of_the_log(
    serve: Serve, over: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve(over, ours=True) as server:
        session = await server.post(f"{FORGED}/a.ipynb", name=FORGED, type=FORGED)
        assert session["path"] == f"{FORGED}/a.ipynb", "it may be the path of a file"
        one = session["id"]
        await server.send("PATCH", one, {"path": f"b{FORGED}", "name": FORGED})
        for kernel in ({"id": FORGED}, {"name": FORGED}, {"id": f"x{FORGED}", "name": FORGED}):
            await server.send("POST", body={**BODY, "path": "c.ipynb", "kernel": kernel})
            await server.send("POST", body={**BODY, "path": FORGED, "kernel": kernel})
            await server.send("PATCH", one, {"kernel": kernel})
        await server.send("POST", body={**BODY, "path": f"../{FORGED}"})
        await server.send(
            "POST", body={"notebook": {"path": FORGED}, "kernel": {"name": "python3"}}
        )
        if over != LOCAL:
            for body in ({"kernel_id": FORGED}, {"name": FORGED}, {"path": FORGED}):
                await post_kernel(server, {"name": "python3", **body})
        for session_id in await server.list():
            await server.send("DELETE", session_id)
    forged = [entry.getMessage() for entry in caplog.records if FORGED in entry.getMessage()]
    # Jupyter Server's own, with --debug, in older releases.
    assert [one for one in forged if not one.startswith("Reading path from disk")] == []


async def test_rows_that_were_edited_begin_no_line_of_the_log(
    serve: Serve, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(GATEWAY) as server:
        manager = server.manager
        edited: list[dict[str, Any]] = [
            {"kernel_id": None},
            {"state": FORGED},
            {"kernel_id": f"k{FORGED}"},
        ]
        for number, changes in enumerate(edited):
            await manager.store.add(
                record(f"{FORGED}{number}", manager.scope, path=f"{number}", **changes)
            )
        await server.list()
        await server.list()
    assert [entry for entry in caplog.records if FORGED in entry.getMessage()] == []


def test_what_cannot_be_seen_is_escaped() -> None:
    assert printable("ä b.ipynb") == "ä b.ipynb"
    assert printable("a\nb\x1b\x85\u2028\\") == r"a\nb\x1b\x85\u2028\\"[:-1]
