"""A real JupyterHub: three users, one of them with a named server, and one database."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
import pytest

import jupyter_session_store
from jupyter_session_store.sql.schema.versions import HEAD

from ..cli.support import session_store
from ..databases import Database
from .client import Model
from .cluster import LEASE
from .hub import Hub, UserServer, documented_command, documented_file
from .outliving import CONFIG as OUTLIVING
from .process import PATIENCE
from .rows import rows_of
from .server import PATIENT
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("hubs"),
    pytest.mark.timeout(600),
    pytest.mark.only("postgresql", reason="what is tested is the hub, on one database server"),
]

#: User and server, and the namespace that follows from them.
NAMESPACES: Final = {
    ("ada", ""): "hub:ada/",
    ("ada", "gpu"): "hub:ada/gpu",
    ("bob@example.org", ""): "hub:bob%40example.org/",
    ("carol", ""): "hub:carol/",
}
ADA, GPU, BOB, CAROL = NAMESPACES

#: Where the guide has the file with the URL.
_SECRET: Final = "/etc/jupyterhub/session-store-url"
#: Where it has the operator's, which is the same here.
_OWNER: Final = "/etc/jupyterhub/session-store-owner-url"
#: Where it has the service that says to Prometheus where the servers are.
_SERVICE: Final = "/etc/jupyterhub/prometheus_targets.py"
#: What is an administrator's.
_FOLDERS: Final = ("/etc/jupyterhub/", "/var/lib/jupyterhub/")
_PERIOD: Final = "time.sleep(30)"

#: Where the package's own file, which enables its extension, lies in it.
_ENABLED: Final = Path("jupyter-config", "jupyter_session_store.json")

#: On top of what an operator writes: neither a front end, nor a long wait for a lease. How
#: Prometheus logs in the guide leaves open.
_FASTER: Final = f"""{PATIENT}
c.PersistentSessionManager.lease_seconds = {LEASE}
c.ServerApp.authenticate_prometheus = False
c.ServerApp.allow_root = {os.geteuid() == 0}
"""
_NO_FRONT_END: Final = {
    "ServerApp": {
        "jpserver_extensions": dict.fromkeys(("jupyter_lsp", "jupyterlab", "notebook_shim"), False)
    }
}


def site(folder: Path, more: str = "") -> Path:
    """Return a folder that is to servers what /usr/local/etc/jupyter is on a machine."""
    extensions = folder / "jupyter_server_config.d"
    extensions.mkdir(parents=True)
    shutil.copy(Path(jupyter_session_store.__file__).parent / _ENABLED, extensions)
    (extensions / "no_front_end.json").write_text(json.dumps(_NO_FRONT_END))
    config = documented_file("/usr/local/etc/jupyter/jupyter_server_config.py")
    (folder / "jupyter_server_config.py").write_text(config + _FASTER + more)
    return folder


def localised(text: str, folder: Path) -> str:
    """Return a file of the guide with a folder in place of an administrator's."""
    for one in _FOLDERS:
        text = text.replace(one, f"{folder}/")
    return text


def write_service(folder: Path) -> None:
    """Write the guide's service, which need not wait for half a minute here."""
    text = localised(documented_file(_SERVICE), folder)
    assert _PERIOD in text
    (folder / Path(_SERVICE).name).write_text(text.replace(_PERIOD, "time.sleep(1)"))


def operate(secret: Path, subcommand: str, *more: str) -> None:
    """Run a command of the guide."""
    words = [word.replace(_OWNER, str(secret)) for word in documented_command(subcommand)]
    assert f"file:{secret}" in words
    done = session_store(*words, *more, home=secret.parent)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def secret(database: Database, tmp_path: Path) -> Path:
    """The file with the URL."""
    path = tmp_path / "session-store-url"
    path.write_text(f"{database.url}\n")
    return path


@contextmanager
def running_hub(secret: Path, servers_config: str = "") -> Iterator[Hub]:
    """Yield a hub, set up as the guide says, and its users."""
    operate(secret, "upgrade")
    folder = secret.parent
    config = documented_file("/etc/jupyterhub/jupyterhub_config.py")
    assert _SECRET in config
    assert _SERVICE in config
    write_service(folder)
    where = str(site(folder / "etc", servers_config))
    hub = Hub(
        f"{localised(config, folder)}\nc.Spawner.environment['JUPYTER_CONFIG_PATH'] = {where!r}\n"
    )
    try:
        hub.start()
        users = sorted({user for user, _ in NAMESPACES})
        hub.ask("POST", "/users", 201, json={"usernames": users})
        yield hub
    finally:
        print(hub.log)
        hub.close()


@pytest.fixture
def hub(secret: Path) -> Iterator[Hub]:
    """A running hub, set up as the guide says, and its users."""
    with running_hub(secret) as hub:
        yield hub


@pytest.fixture
def running(hub: Hub) -> Iterator[dict[tuple[str, str], UserServer]]:
    """The servers of the hub's users, all running."""
    with ExitStack() as stack:
        made = {}
        for user, name in NAMESPACES:
            token = hub.ask("POST", f"/users/{user}/tokens", 201)["token"]
            made[user, name] = UserServer(hub, user, token, name)
            stack.callback(made[user, name].close)
        with ThreadPoolExecutor() as pool:
            list(pool.map(UserServer.start, made.values()))
        yield made


def stored(database: Database) -> Counter[str]:
    """Return how many sessions each namespace has."""
    return Counter(row.namespace for row in rows_of(database))


def registered(database: Database) -> Counter[str]:
    """Return how many servers each namespace has."""
    return Counter(
        namespace for (namespace,) in database.rows("SELECT namespace FROM jupyter_servers")
    )


def check_own(server: UserServer, session: Model, value: int) -> None:
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    assert server.kernels() == [session["kernel"]["id"]]
    assert server.execute(session["kernel"]["id"], "me") == str(value)


def check_watched(server: UserServer, namespace: str) -> None:
    """Check what probes and operators are told."""
    health, status = "/api/session-store/health", "/api/session-store/status"
    with httpx.Client(base_url=server.api.base_url, timeout=PATIENCE, trust_env=False) as anyone:
        assert server.model(anyone.get(health), 200) == {"status": "well"}
        assert anyone.get(status).status_code == 403
        metrics = anyone.get("/metrics")
    told = server.model(server.api.get(status), 200)
    assert told["namespace"] == namespace
    assert told["backend"].startswith("postgresql")
    assert told["revision"] == HEAD
    # By which verb its session came into the store depends on how busy the machine is.
    (shown,) = re.findall(r"^jupyter_session_store_sessions{.*} (.*)$", metrics.text, re.MULTILINE)
    assert float(shown) == 1


def last_used(hub: Hub) -> dict[str, str]:
    """Return when the proxy has seen each server used last, which is what cullers go by."""
    routes = hub.ask("GET", "/proxy", 200)
    return {
        name: route["data"]["last_activity"]
        for name, route in routes.items()
        if "server_name" in route["data"]
    }


def check_scraped(hub: Hub, running: dict[tuple[str, str], UserServer], targets: Path) -> None:
    """Check that Prometheus finds each server, and that asking it directly is no use of it."""
    until(
        lambda: targets.exists() and len(json.loads(targets.read_text())) == len(running),
        why="the service writes where the servers are",
    )
    found = {one["labels"]["instance"]: one for one in json.loads(targets.read_text())}
    before = last_used(hub)
    assert len(before) == len(running)
    headers = {"Authorization": f"Bearer {hub.token}"}
    with httpx.Client(timeout=PATIENCE, trust_env=False) as prometheus:
        for (user, name), server in running.items():
            target = found[f"{user}/{name}"]
            (where,) = target["targets"]
            # Encoded as Prometheus does it.
            path = quote(target["labels"]["__metrics_path__"], safe="/@")
            metrics = prometheus.get(f"http://{where}{path}")
            assert "jupyter_session_store_up 1.0" in metrics.text
            direct = f"http://{where}{server.prefix}api/session-store"
            assert prometheus.get(f"{direct}/health").status_code == 200
            assert prometheus.get(f"{direct}/status").status_code == 403
            assert prometheus.get(f"{direct}/status", headers=headers).status_code == 200
    assert last_used(hub) == before
    ada = running[ADA]
    assert ada.api.get("/api/session-store/health").status_code == 200
    until(
        lambda: last_used(hub)[ada.prefix] > before[ada.prefix],
        why="the proxy takes it for a use",
    )


def test_each_user_has_sessions_of_their_own_until_the_server_ends(
    database: Database, secret: Path, hub: Hub, running: dict[tuple[str, str], UserServer]
) -> None:
    sessions = {key: server.create("same.ipynb") for key, server in running.items()}
    ada, gpu, bob, carol = running.values()
    everybody = Counter(NAMESPACES.values())
    until(
        lambda: stored(database) == registered(database) == everybody,
        why="each is registered, and its session stored",
    )
    for key, server in running.items():
        check_watched(server, NAMESPACES[key])
    check_scraped(hub, running, secret.parent / "prometheus-targets.json")

    # Nobody sees, changes or ends what is another's.
    for number, (key, server) in enumerate(running.items()):
        server.execute(sessions[key]["kernel"]["id"], f"me = {number}")
        for other, session in sessions.items():
            if other != key:
                assert server.get(session["id"]).status_code == 404
                assert server.patch(session["id"], path="stolen.ipynb").status_code == 404
                assert server.delete(session["id"]).status_code == 404
    for number, (key, server) in enumerate(running.items()):
        check_own(server, sessions[key], number)
    # The hub itself lets nobody in.
    headers = {"Authorization": f"token {bob.token}"}
    assert ada.api.get("/api/sessions", headers=headers).status_code == 403

    # A server that its hub stops takes its kernels and its sessions with it.
    ada.stop()
    assert stored(database) == registered(database) == everybody - Counter(["hub:ada/"])
    ada.start()
    assert ada.sessions() == []
    sessions[ADA] = ada.create("same.ipynb")
    ada.execute(sessions[ADA]["kernel"]["id"], "me = 0")
    check_own(gpu, sessions[GPU], 1)

    # The sessions of one that is killed are removed by the next of its namespace, and no other.
    bob.kill()
    carol.kill()
    assert stored(database) == registered(database) == everybody
    bob.start()
    assert bob.sessions() == []
    left = everybody - Counter([NAMESPACES[BOB]])
    until(lambda: stored(database) == left, why="the lease runs out")
    assert registered(database) == everybody

    # Of a user who is gone there is no next.
    hub.ask("DELETE", "/users/carol", 204)
    check_own(ada, sessions[ADA], 0)
    check_own(gpu, sessions[GPU], 1)
    assert stored(database) == left

    hub.stop()
    assert stored(database) == registered(database) == Counter([NAMESPACES[CAROL]])
    operate(secret, "purge", "--yes")
    assert stored(database) == registered(database) == Counter()


def test_kernels_go_on_when_the_hub_stops_their_server(secret: Path) -> None:
    # The guide's last line for servers has kernels end with them.
    outliving = f"{OUTLIVING}c.PersistentKernelManager.detach_on_stop = True\n"
    with running_hub(secret, outliving) as hub, ExitStack() as stack:
        token = hub.ask("POST", "/users/ada/tokens", 201)["token"]
        ada = UserServer(hub, "ada", token)
        stack.callback(ada.close)
        ada.start()
        session = ada.create("open.ipynb")
        kernel = session["kernel"]["id"]
        ada.execute(kernel, "x = 41")
        for end in (ada.stop, ada.kill):
            end()
            ada.start()
            assert [one["id"] for one in ada.sessions()] == [session["id"]]
            assert ada.execute(kernel, "x + 1") == "42"
        # The hub deletes the user, with the server, and nobody else would end the kernel.
        hub.ask("DELETE", "/users/ada", 204)
        assert kernels_of(hub, "ada") == [kernel]
        assert kernels_of(hub, "ada", "--stop", "--yes") == [kernel]
        assert kernels_of(hub, "ada") == []


def kernels_of(hub: Hub, user: str, *more: str) -> list[str]:
    """Return a user's kernels without a server, or those that are ended, as root has them."""
    home = hub.directory / "users" / user
    # As `sudo -H` does: the user's home says where the records are.
    done = session_store(
        *("kernels", "--detached", "--json", *more),
        home=hub.directory / "users",
        HOME=str(home),
        JUPYTER_DATA_DIR=str(home / ".local/share/jupyter"),
        JUPYTER_RUNTIME_DIR=str(home / ".local/share/jupyter/runtime"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["ended"] if more else [one["kernel_id"] for one in found]
