"""A real JupyterHub that hands each user's server the URL of a role of its own, behind a wall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from ..cli.support import session_store
from ..cli.walls import Walled, answer, walled
from ..databases import Database
from .hub import Hub, UserServer, documented_file
from .test_hub import localised, site, write_service
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("hubs"),
    pytest.mark.timeout(600),
    pytest.mark.only("postgresql", reason="others have no policies for rows"),
]

USERS: Final = ("ada", "bob@example.org")
_CONFIG: Final = "/etc/jupyterhub/jupyterhub_config.py"


@pytest.fixture
def house(database: Database) -> Iterator[Walled]:
    with walled(database) as made:
        made.build()
        yield made


@pytest.fixture
def hub(house: Walled, tmp_path: Path) -> Iterator[Hub]:
    """A hub as the guides say; one of its users has no URL."""
    urls = tmp_path / "session-store-urls"
    urls.mkdir(mode=0o700)
    for number, user in enumerate(USERS):
        role = house.name(f"user{number}")
        file = urls / quote(user, safe="")
        file.write_text(f"{house.role(role).url}\n")
        file.chmod(0o600)
        words = ("wall", "grant", "--user", user, "--role", role, "--yes")
        done = session_store(*words, home=tmp_path, url=house.owner.url)
        assert done.returncode == 0, done.stderr
    # Nothing gets this one.
    (tmp_path / "session-store-url").write_text("postgresql://nobody@127.0.0.1:1/nothing\n")
    write_service(tmp_path)
    config = documented_file(_CONFIG) + documented_file(_CONFIG, "wall.md")
    where = str(site(tmp_path / "etc"))
    hub = Hub(
        f"{localised(config, tmp_path)}\nc.Spawner.environment['JUPYTER_CONFIG_PATH'] = {where!r}\n"
    )
    try:
        hub.start()
        hub.ask("POST", "/users", 201, json={"usernames": [*USERS, "eve"]})
        yield hub
    finally:
        print(hub.log)
        hub.close()


def is_in_step(server: UserServer) -> bool:
    """Return whether the store has what a server lists."""
    status = server.api.get("/api/session-store/status").json()
    return bool(status["unsynchronized_sessions"] == 0)


def test_each_user_has_a_role(hub: Hub, house: Walled) -> None:
    with ExitStack() as stack:
        servers = {}
        for user, name in ((USERS[0], ""), (USERS[0], "gpu"), (USERS[1], "")):
            token = hub.ask("POST", f"/users/{user}/tokens", 201)["token"]
            servers[user, name] = UserServer(hub, user, token, name)
            stack.callback(servers[user, name].close)
            servers[user, name].start()
        made = {key: server.create("same.ipynb") for key, server in servers.items()}
        for key, server in servers.items():
            assert [one["id"] for one in server.sessions()] == [made[key]["id"]]
            until(partial(is_in_step, server), why="its session is stored")
        namespaces = "SELECT DISTINCT namespace FROM jupyter_sessions ORDER BY 1"
        stored = ["hub:ada/", "hub:ada/gpu", "hub:bob%40example.org/"]
        assert answer(house.owner, namespaces) == [(one,) for one in stored]
        # What a user can do with what the server knows.
        for of, own in (((USERS[0], ""), stored[:2]), ((USERS[1], ""), stored[2:])):
            kernel = made[of]["kernel"]["id"]
            seen = servers[of].execute(
                kernel,
                "import os, psycopg\n"
                "with psycopg.connect(os.environ['JUPYTER_SESSION_STORE_URL']) as c:\n"
                f"    print([row[0] for row in c.execute({namespaces!r})])",
            )
            assert seen.strip() == str(own)
    # No URL, no server.
    failed = hub.api.post("/hub/api/users/eve/server", timeout=60)
    assert failed.status_code >= 400
    assert "session-store-urls/eve' cannot be read (FileNotFoundError)" in hub.log
