"""The first command of the README: it serves notebooks of its own, and leaves the user's alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from ..databases.local import claimed_port
from .channels import Channels
from .process import PATIENCE
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.extended("make run"),
]

_CHECKOUT = Path(__file__).resolve().parents[2]


class FirstSteps:
    """`make run`, and what goes with it, of a user who has nothing but a home."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self._log = folder / "log"
        self._claim = claimed_port()
        self._options = [
            # What is tested is installed already.
            "ENVIRONMENT=true",
            f"BIN={Path(sys.executable).parent}",
            f"PORT={self._claim.getsockname()[1]}",
            f"RUN={folder / 'run'}",
        ]
        self._environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XDG", "MAKE"))
        } | {"HOME": str(self.home)}

    def close(self) -> None:
        """Let the port go."""
        self._claim.close()

    def make(self, target: str, *arguments: str) -> str:
        """Run a target to its end, and return what it printed."""
        done = subprocess.run(
            self._command(target, *arguments),
            cwd=_CHECKOUT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self) -> Iterator[httpx.Client]:
        """Serve until the end, which is SIGKILL."""
        with open(self._log, "wb") as log:
            process = subprocess.Popen(
                self._command("run", "--no-browser"),
                cwd=_CHECKOUT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            found = until(self._address, why="JupyterLab says where it is")
            assert found is not None
            url, token = found
            headers = {"Authorization": f"token {token}"}
            with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE) as api:
                until(lambda: _answers(api), why="JupyterLab answers")
                yield api
        finally:
            # The server, and make.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _command(self, target: str, *arguments: str) -> list[str]:
        return ["make", "-s", target, *self._options, f"ARGS={' '.join(arguments)}"]

    def _address(self) -> tuple[str, str] | None:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/lab\?token=(\w+)", self._log.read_text())
        return (found[1], found[2]) if found else None


def _answers(api: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return api.get("/api").status_code == 200
    return False


@pytest.fixture
def first_steps(tmp_path: Path) -> Iterator[FirstSteps]:
    """The command, and a user's home."""
    steps = FirstSteps(tmp_path)
    yield steps
    steps.make("kernels", "--stop --detached --yes")
    steps.close()


def test_it_serves_a_folder_of_its_own_and_leaves_the_users_alone(
    first_steps: FirstSteps,
) -> None:
    with first_steps.running() as api:
        assert api.get("/api/contents/").json()["content"] == [], "not the checkout"
        body = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"name": ""}}
        session = api.post("/api/sessions", json=body).json()
        kernel_id = session["kernel"]["id"]
        with _channels(api, kernel_id) as channels:
            channels.execute("x = 41")

    listed = json.loads(first_steps.make("kernels", "--json"))
    assert [(kernel["kernel_id"], kernel["owner_pid"]) for kernel in listed] == [(kernel_id, None)]

    with first_steps.running() as api:
        assert [one["id"] for one in api.get("/api/sessions").json()] == [session["id"]]
        with _channels(api, kernel_id) as channels:
            assert channels.execute("x + 1") == "42"

    # JupyterLab asks npm, where that is installed, and npm keeps a log.
    written = {path.name for path in first_steps.home.iterdir()} - {".npm"}
    assert written == set(), "nothing of Jupyter's is in the user's home"


def _channels(api: httpx.Client, kernel_id: str) -> Channels:
    url = str(api.base_url).replace("http", "ws", 1).rstrip("/")
    return Channels(
        f"{url}/api/kernels/{kernel_id}/channels",
        header={"Authorization": api.headers["Authorization"]},
    )
