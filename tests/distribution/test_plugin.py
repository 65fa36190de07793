"""A repository of another maker: installed, chosen by its name, and held to the contract."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..system.server import PATIENT, JupyterServer
from .building import Environment
from .conftest import PLUGIN

pytestmark = [pytest.mark.timeout(900), pytest.mark.extended("installed wheels")]

CHOSEN = 'c.PersistentSessionManager.repository = "jsonfile"\n'


def kept_in(file: Path) -> list[dict[str, Any]]:
    sessions: list[dict[str, Any]] = json.loads(file.read_text())["sessions"]
    return sessions


def test_it_passes_the_conformance_suite(with_plugin: Environment, tmp_path: Path) -> None:
    # A copy: the configuration of pytest around the original belongs to this project.
    suite = tmp_path / "conformance.py"
    suite.write_bytes((PLUGIN / suite.name).read_bytes())
    done = with_plugin.run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", suite), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 100


@pytest.mark.system
def test_a_server_keeps_its_sessions_in_it(
    with_plugin: Environment, serve: Callable[..., JupyterServer], tmp_path: Path
) -> None:
    file = tmp_path / "sessions.json"
    url = f"jsonfile://{file}"
    server = serve(with_plugin, f"{CHOSEN}c.SessionManager.database_filepath = {url!r}{PATIENT}")
    server.start()
    session = server.create("a.ipynb")
    [kept] = kept_in(file)
    assert (kept["session_id"], kept["path"]) == (session["id"], "a.ipynb")
    assert kept["kernel_id"] == session["kernel"]["id"]
    assert server.create("a.ipynb")["id"] == session["id"]
    renamed = server.patch(session["id"], path="b.ipynb")
    assert renamed.json()["path"] == "b.ipynb"
    assert [one["path"] for one in server.sessions()] == ["b.ipynb"]
    # Measured and shown too, though it knows nothing of that.
    status = server.model(server.api.get("/api/session-store/status"), 200)
    assert (status["well"], status["sessions"]["ready"]) == (True, 1)
    assert (status["backend"], status["revision"]) == (f"JSON file {str(file)!r}", None)
    counted = server.api.get("/metrics").text
    stored = r'^jupyter_session_store_operations_total{outcome="ok",verb="(?:add|mirror)"} (.*)$'
    assert sum(map(float, re.findall(stored, counted, re.MULTILINE))) > 0
    assert server.delete(session["id"]).status_code == 204
    assert kept_in(file) == []
    server.create("c.ipynb")
    server.stop()
    # Its kernel was shut down with the server.
    assert kept_in(file) == []
    assert server.own_frames() == []


@pytest.mark.system
def test_its_default_is_its_own(
    with_plugin: Environment, serve: Callable[..., JupyterServer]
) -> None:
    server = serve(with_plugin, CHOSEN + PATIENT)
    server.start()
    session = server.create("a.ipynb")
    [kept] = kept_in(server.data_dir / "sessions.json")
    assert kept["session_id"] == session["id"]
    server.stop()


@pytest.mark.system
@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            'c.PersistentSessionManager.repository = "jsonfiel"',
            "No session repository is called 'jsonfiel'; the installed ones are jsonfile, memory, "
            "sqlalchemy.",
        ),
        (
            f'{CHOSEN}c.SessionManager.database_filepath = "postgresql://u:s3cr3t@db/x"',
            "is no URL of the repository 'jsonfile'; expected jsonfile:///absolute/path.",
        ),
        (
            f"{CHOSEN}c.PersistentSessionManager.engine_options = {{'pool_size': 1}}",
            "The repository 'jsonfile' takes no engine_options.",
        ),
    ],
    ids=["unknown name", "another's URL", "options"],
)
def test_a_wrong_setting_stops_the_server_and_says_why(
    with_plugin: Environment, serve: Callable[..., JupyterServer], config: str, told: str
) -> None:
    server = serve(with_plugin, config)
    server.launch()
    assert server.exit_code() != 0
    assert told in server.log
    assert "Traceback" not in server.log
    assert "s3cr3t" not in server.log
