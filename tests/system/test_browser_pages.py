"""The page in a browser, as a service of a real hub with three users: what each sees."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final, Literal

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from jupyter_session_store.sql.schema import migrating

from ..cli.support import COMMAND
from ..databases import Database
from ..databases.local import claimed_port
from ..migrations.support import engine_of
from .browsing import PATIENCE, browser, keep
from .hub import Hub, UserServer, documented_file
from .node import node_package
from .test_hub import site
from .waiting import until

__all__ = ["browser"]

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("browsers"),
    pytest.mark.timeout(600),
    pytest.mark.only("postgresql", reason="what is tested is the page, behind a hub"),
]

USERS: Final = ("ada", "bob", "carol")
ADMINISTRATOR: Final = "ada"
WIDTHS: Final = {"wide": 1280, "narrow": 390}
THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
_SECRET: Final = "/etc/jupyterhub/session-store-url"
_COMMAND: Final = '"/opt/jupyterhub/bin/jupyter-session-store"'
_ADDRESS: Final = "http://127.0.0.1:8890"
_AXE: Final = ("axe-core", "4.10.3")


@pytest.fixture
def hub(database: Database, tmp_path: Path) -> Iterator[Hub]:
    """A running hub with the service, as the guides say, and its users' servers."""
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    (tmp_path / "session-store-url").write_text(f"{database.url}\n")
    configs = [
        documented_file("/etc/jupyterhub/jupyterhub_config.py", page)
        for page in ("jupyterhub.md", "page.md")
    ]
    # The services of the first guide are not what this is about.
    config = configs[0].partition("c.JupyterHub.services.append")[0] + configs[1]
    # Where they are here.
    claim = claimed_port()
    for there, here in {
        _SECRET: f"{tmp_path}/session-store-url",
        _COMMAND: f'"{COMMAND}"',
        _ADDRESS: f"http://127.0.0.1:{claim.getsockname()[1]}",
    }.items():
        assert there in config
        config = config.replace(there, here)
    hub = Hub(
        f"{config}\n"
        f"c.Authenticator.admin_users = {{{ADMINISTRATOR!r}}}\n"
        f"c.Authenticator.allow_all = True\n"
        "c.JupyterHub.services[-1]['timeout'] = 240\n"
        f"c.Spawner.environment['JUPYTER_CONFIG_PATH'] = {str(site(tmp_path / 'etc'))!r}\n"
    )
    try:
        hub.start()
        hub.ask("POST", "/users", 201, json={"usernames": list(USERS[1:])})
        yield hub
    finally:
        print(hub.log)
        hub.close()
        claim.close()


@contextmanager
def logged_in(browser: Browser, hub: Hub, user: str) -> Iterator[Page]:
    """Yield a page of a user's, who has logged in where the hub asks for it."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{hub.url}/services/sessions/")
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill("any")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/services/sessions/sessions")
    yield page
    context.close()


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong with a page."""
    script = node_package(*_AXE) / "axe.min.js"
    # The page's own policy lets no other script in.
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {json.dumps(one['nodes'][0]['html'])}" for one in found]


def test_each_sees_what_is_theirs(
    database: Database, hub: Hub, browser: Browser, tmp_path: Path
) -> None:
    expect.set_options(timeout=PATIENCE)
    errors: list[str] = []
    with ExitStack() as stack:
        for user in USERS:
            token = hub.ask("POST", f"/users/{user}/tokens", 201)["token"]
            server = UserServer(hub, user, token)
            stack.callback(server.close)
            server.start()
            server.create(f"{user}'s.ipynb")
        for user in USERS:
            is_admin = user == ADMINISTRATOR
            with logged_in(browser, hub, user) as page:
                page.on("pageerror", lambda error: errors.append(str(error)))
                page.on("console", partial(note, errors))
                until(partial(are_seen, page), why="renewals are seen")
                rows = page.locator("#rows tbody tr")
                page.get_by_role("link", name="Sessions").click()
                expect(rows).to_have_count(3 if is_admin else 1)
                expect(rows.first).to_contain_text("ada's.ipynb" if is_admin else f"{user}'s.ipynb")
                database_shown = page.locator(".database")
                expect(database_shown).to_have_count(1 if is_admin else 0)
                # Another's, by its address.
                for other in set(USERS) - {user}:
                    page.goto(f"{hub.url}/services/sessions/sessions?namespace=hub:{other}/")
                    expect(rows).to_have_count(1 if is_admin else 0)
                page.goto(f"{hub.url}/services/sessions/sessions")
                opened = page.get_by_role("link", name="Open").first.get_attribute("href")
                assert opened == f"/user/{user}/lab/tree/{user}%27s.ipynb"
                # With the keyboard alone.
                page.keyboard.press("Tab")
                expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
                page.get_by_label("Path holds").fill("nothing")
                page.keyboard.press("Enter")
                expect(page.locator("#summary")).to_have_text("0 sessions.")
                page.get_by_role("link", name="Show all").click()
                page.get_by_role("link", name=f"{user}'s.ipynb", exact=True).click()
                expect(page.get_by_role("heading", level=1)).to_have_text(f"{user}'s.ipynb")
                assert ("jupyter session-store show" in page.content()) == is_admin
        check_looks(hub, browser, tmp_path)
        check_strangers(hub)
    assert errors == []


def note(errors: list[str], message: ConsoleMessage) -> None:
    if message.type == "error":
        errors.append(message.text)


def are_seen(page: Page) -> bool:
    """Return whether the servers are known to be alive."""
    page.goto(re.sub(r"sessions/\w+(\?.*)?$", "sessions/servers", page.url))
    return "unknown" not in str(page.locator("#rows tbody").text_content())


def check_looks(hub: Hub, browser: Browser, folder: Path) -> None:
    """Take a picture of each table, at each width and in each theme, and have axe-core look."""
    for user, kind in {ADMINISTRATOR: "admin", "bob": "user"}.items():
        with logged_in(browser, hub, user) as page:
            for (width, pixels), theme in product(WIDTHS.items(), THEMES):
                page.set_viewport_size({"width": pixels, "height": 800})
                page.emulate_media(color_scheme=theme)
                for table in ("servers", "namespaces", "sessions"):
                    page.goto(f"{hub.url}/services/sessions/{table}")
                    assert violations(page) == [], (user, width, theme, table)
                    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert wider <= 0, (width, table)
                keep(page, folder / f"page-{kind}-{width}-{theme}.png")
                page.get_by_role("link", name="'s.ipynb").first.click()
                assert violations(page) == [], (user, width, theme, "session")


def check_strangers(hub: Hub) -> None:
    """Ask without a log-in, with a forged token, and from another site."""
    with httpx.Client(
        base_url=f"{hub.url}/services/sessions", trust_env=False, timeout=60
    ) as client:
        answer = client.get("/sessions")
        assert answer.status_code == 302
        assert "/hub/api/oauth2/authorize" in answer.headers["Location"]
        forged = {"Authorization": "token 0123456789abcdef0123456789abcdef"}
        for headers in ({}, forged):
            assert client.get("/api/sessions", headers=headers).status_code == 403
        # The operator's token is a service's, without the scope.
        token = {"Authorization": f"token {hub.token}"}
        assert client.get("/api/sessions", headers=token).status_code == 403
        for site_ in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site_, "Sec-Fetch-Mode": "cors"}
            assert client.get("/api/sessions", headers=headers).status_code == 403
