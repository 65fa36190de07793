"""The distribution, built once, and the environments that it is installed into."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..programs import once
from ..system.server import JupyterServer
from .building import Distribution, Environment, build, install, only

PLUGIN = Path(__file__).parent / "plugin"
EXTRAS = "[postgresql,mysql]"
# What runs a server: an interpreter that takes the place of the one that is named next.
_INSTEAD = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


@pytest.fixture(scope="session")
def distribution(run_folder: Path) -> Distribution:
    """The sdist and the wheels, built from this checkout."""
    folder = run_folder / "distribution"
    once(folder, lambda: build(folder))
    return Distribution(
        only(folder / "dist", "*.tar.gz"),
        only(folder / "dist", "*.whl"),
        only(folder / "rebuilt", "*.whl"),
    )


@dataclass(frozen=True)
class Installer:
    """Makes environments, each once for all the processes of a test run."""

    folder: Path

    def __call__(
        self, name: str, *requirements: str, like: Environment | None = None
    ) -> Environment:
        """Return an environment with some requirements, on top of what another one has."""
        folder = self.folder / "environments" / name / "venv"

        def make() -> None:
            if like is not None:
                # To install what a server needs takes ten times as long.
                subprocess.run(["cp", "-Rp", like.folder, folder], check=True)
            install(folder, *requirements)

        once(folder.parent, make)
        return Environment(folder)


@pytest.fixture(scope="session")
def installer(run_folder: Path) -> Installer:
    """What installs."""
    return Installer(run_folder)


def from_file(wheel: Path) -> str:
    return f"jupyter_session_store{EXTRAS} @ {wheel.as_uri()}"


@pytest.fixture(scope="session")
def with_wheel(installer: Installer, distribution: Distribution) -> Environment:
    """An environment with the package, from its wheel; it is copied, and nothing is run in it."""
    return installer("base", from_file(distribution.wheel), "ipykernel")


@pytest.fixture(scope="session", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, installer: Installer, with_wheel: Environment
) -> Environment:
    """An environment with the package, from its wheel and from the checkout."""
    # The wheel's is there already.
    what = f".{EXTRAS}" if request.param == "editable" else "ipykernel"
    return installer(request.param, what, like=with_wheel)


@pytest.fixture(scope="session")
def with_plugin(installer: Installer, with_wheel: Environment) -> Environment:
    """An environment with the package and, as a distribution of its own, the plugin."""
    return installer("plugin", str(PLUGIN), "pytest>=8", like=with_wheel)


@pytest.fixture
def serve() -> Iterator[Callable[..., JupyterServer]]:
    """A function that returns a server of an environment, which is not started yet."""
    servers: list[JupyterServer] = []

    def make(environment: Environment, config: str) -> JupyterServer:
        prefix = (str(environment.python), "-c", _INSTEAD)
        servers.append(JupyterServer(config, prefix=prefix))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
