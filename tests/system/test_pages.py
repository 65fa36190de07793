"""The page that shows who runs what where, with real servers and databases behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Final

import httpx
import pytest
from sqlalchemy import insert

from jupyter_session_store.records import Scope
from jupyter_session_store.sql.models import Session
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.testing.samples import record

from ..databases import Database
from ..migrations.support import engine_of
from .conftest import stored_in
from .losing import LosingDatabase
from .server import JupyterServer
from .serving import PageServer
from .waiting import until

pytestmark = pytest.mark.system

NewServer = Callable[..., JupyterServer]
NewPage = Callable[..., PageServer]

#: Paths that a page must not be misled by, or break at.
PATHS: Final = (
    "<script>alert('a')</script>.ipynb",
    "\u202egnp.ipynb",
    "\U0001f600 \u0627.ipynb",
    "line\nend\x07.ipynb",
    f"{'x' * 4090}.ipynb",
    "\"'&amp;.ipynb",
)


@pytest.fixture
def new_page() -> Iterator[NewPage]:
    """A function that makes a page of a database, not started yet, which is gone after the test."""
    made: list[PageServer] = []

    def new(url: str, **how: object) -> PageServer:
        made.append(PageServer(url, **how))
        return made[-1]

    yield new
    for page in made:
        print(page.log)
        page.close()


@pytest.fixture
def page(database: Database, new_page: NewPage) -> PageServer:
    """A page that is served, of a database at the newest revision."""
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    page = new_page(database.url)
    page.start()
    return page


def test_who_runs_what_where(database: Database, new_server: NewServer, new_page: NewPage) -> None:
    server = new_server(f"{stored_in(database)}\nc.PersistentSessionManager.lease_seconds = 6")
    server.start()
    session = server.create("a.ipynb")
    page = new_page(database.url)
    page.start()
    until(
        lambda: page.rows("servers")["liveness"] == {"alive": 1, "silent": 0, "unknown": 0},
        why="a renewal is seen",
    )
    [found] = page.rows("sessions")["sessions"]
    assert (found["path"], found["session_id"], found["kernel_id"], found["state"]) == (
        "a.ipynb",
        session["id"],
        session["kernel"]["id"],
        "ready",
    )
    assert (found["server_liveness"], found["url"]) == ("alive", None)
    [other] = page.rows("servers")["servers"]
    assert (other["pid"], other["sessions"], other["liveness"]) == (server.pid, 1, "alive")
    assert page.rows("servers", liveness="silent")["servers"] == []
    [namespace] = page.rows("namespaces")["namespaces"]
    assert (namespace["namespace"], namespace["sessions"]) == (found["namespace"], 1)
    one = {name: found[name] for name in ("namespace", "session_id")}
    # Between two looks a renewal may write how the kernel is.
    until(
        lambda: [page.rows("session", **one)] == page.rows("sessions")["sessions"],
        why="it is the one that is listed",
    )
    for path in ("sessions", "servers", "namespaces", f"session?{httpx.QueryParams(one)}"):
        assert "a.ipynb" in page.page(path) or path in ("servers", "namespaces")
        assert found["namespace"] in unescape(page.page(path))
    server.kill()
    until(
        lambda: page.rows("servers", liveness="silent")["total"] == 1,
        why="the server is silent for longer than its lease",
    )
    assert "prune --dead-servers" in page.page("servers")
    assert page.rows("sessions")["sessions"][0]["server_liveness"] == "silent"
    before = database.rows("SELECT renewals FROM jupyter_servers")
    page.stop()
    assert database.rows("SELECT renewals FROM jupyter_servers") == before
    assert "The page is not served any more. Nothing was changed." in page.log


def test_names_that_mislead(database: Database, page: PageServer) -> None:
    scope = Scope("hub:<b>/", "server:one")
    with engine_of(database.url) as engine, engine.begin() as connection:
        rows = [
            record(f"s{i}", scope).replace(path=path, claim=None, kernel_model="[" * 10_000)
            for i, path in enumerate(PATHS)
        ]
        connection.execute(insert(Session), [to_row(one) for one in rows])
    assert [one["path"] for one in page.rows("sessions")["sessions"]] == list(PATHS)
    whole = page.page("sessions") + page.page("namespaces")
    assert re.findall(r"<script[^>]*>", whole) == re.findall(r"<script src=[^>]*defer>", whole)
    assert "<b>" not in whole
    for sign in ("\u202e", "\x07"):
        assert sign not in whole
    assert "\\u202egnp.ipynb" in whole
    assert "line\\nend\\x07.ipynb" in whole
    assert "x" * 4090 in whole
    for number in range(len(PATHS)):
        assert page.page(f"session?namespace=hub%3A%3Cb%3E%2F&session_id=s{number}")


@pytest.mark.only("postgresql", reason="what is tested is the address of the page")
def test_addresses_that_cannot_be_read(page: PageServer) -> None:
    for path, told in {
        "sessions?sort=size": "sort is 'size'; expected one of: namespace, path, state, created,",
        "sessions?state=<b>": "state is '<b>'; expected one of: closing, ready, starting.",
        "servers?sort=path": "sort is 'path'; expected one of: namespace, host, started, version.",
        "sessions?offset=-1": "offset is '-1'; expected a number up to",
        "sessions?limit=501": "limit is '501'; expected a number up to 500.",
        "sessions?offset=\u0663": "expected a number",
        f"sessions?text={'x' * 5000}": "text is too long.",
    }.items():
        assert told in unescape(page.page(path, 400)), path
        answer = page.api.get(f"/api/{path}")
        assert (answer.status_code, told in answer.json()["message"]) == (400, True)
    for path in ("nothing", "api/nothing", "static/../app.py", "session?session_id=x"):
        assert page.api.get(f"/{path}").status_code == 404
    assert page.rows("sessions", limit=0)["sessions"] == []
    refused = page.api.post("/api/sessions")
    assert refused.status_code == 405
    assert refused.json()["message"].startswith("The page only reads. Expected GET.")
    assert "Traceback" not in page.log


@pytest.mark.only("postgresql", reason="what is tested is who may see the page")
def test_who_may_see_it(page: PageServer) -> None:
    with page.stranger() as stranger:
        for path in ("/", "/sessions", "/api/sessions", "/session", f"/?token={page.token}x"):
            answer = stranger.get(path)
            assert answer.status_code == 403
            assert "postgresql" not in answer.text
        # A page of another site whose name leads here, and one that asks from there.
        assert page.api.get("/sessions", headers={"Host": "evil.example"}).status_code == 403
        for site in ("cross-site", "same-site"):
            asked = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"}
            assert page.api.get("/api/sessions", headers=asked).status_code == 403
        answer = stranger.get(f"/?token={page.token}")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/")
        [cookie] = answer.headers.get_list("Set-Cookie")
        assert page.token not in cookie
        assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
        answer = stranger.get("/sessions")
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        for name in ("page.css", "page.js"):
            assert stranger.get(f"/static/{name}").status_code == 200
    assert page.token not in page.log


def test_a_database_that_goes_away(losing: LosingDatabase, new_page: NewPage) -> None:
    with engine_of(losing.database.url) as engine:
        migrating.upgrade(engine)
    page = new_page(losing.url)
    page.start()
    assert page.rows("sessions")["total"] == 0
    with losing.stopped():
        text = page.page("sessions", 503)
        assert "The session store cannot be reached" in text
        answer = page.api.get("/api/servers")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert losing.url not in text + answer.text
    until(lambda: page.api.get("/api/sessions").status_code == 200, why="it is back")
    assert "Traceback" not in page.log


@pytest.mark.only("sqlite", reason="no database is asked")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ip=0.0.0.0"], "expected a loopback address"),
        (["--port=99999"], "port"),
        (["extra"], "extra"),
    ],
)
def test_wrong_usage(
    database: Database, new_page: NewPage, arguments: list[str], told: str
) -> None:
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    page = new_page(database.url, arguments=arguments)
    page.launch()
    assert page.exit_code() == 2
    assert told in page.log
    assert "Traceback" not in page.log


@pytest.mark.only("sqlite", reason="it is the port that is taken")
def test_a_port_that_is_taken(database: Database, page: PageServer, new_page: NewPage) -> None:
    second = new_page(database.url)
    second.port = page.port
    second.launch()
    assert second.exit_code() == 2
    assert "cannot be listened at" in second.log
    assert "--port 0 takes any" in second.log


@pytest.mark.only("sqlite", reason="no database is asked")
def test_a_database_that_is_not_there(new_page: NewPage, tmp_path: Path) -> None:
    page = new_page(str(tmp_path / "sessions.db"))
    page.launch()
    assert page.exit_code() == 6
    assert "jupyter session-store upgrade" in page.log


@pytest.mark.only("sqlite", reason="what ends it is a signal")
def test_ctrl_c_ends_it(page: PageServer) -> None:
    assert page._process is not None
    page._process.send_signal(2)
    assert page.exit_code() == 0
    assert "Nothing was changed" in page.log
