"""Building the distribution, and installing it where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..programs import run_to_end

ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE: Final = 600


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees no packages but its own.

    Parameters
    ----------
    folder : Path
    """

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    def run(
        self, *words: str | Path, cwd: Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the interpreter in a folder outside the checkout.

        Its standard output and its errors come as one.
        """
        modules = cwd / "modules"
        modules.mkdir(exist_ok=True)
        # An optional module that builds a parser of IRIs when it is imported, which takes
        # longer than everything else here.
        (modules / "rfc3987_syntax.py").write_text("raise ImportError(__name__)\n")
        return run_to_end(
            [self.python, *words],
            cwd=cwd,
            env={
                "HOME": str(cwd),
                "JUPYTER_CONFIG_DIR": str(cwd / "config"),
                "JUPYTER_DATA_DIR": str(cwd / "data"),
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": str(modules),
                **variables,
            },
            timeout=_PATIENCE,
        )

    def answer(self, expression: str, *, cwd: Path) -> str:
        """Return what an expression prints, after ``import jupyter_session_store as package``."""
        code = f"import jupyter_session_store as package; print({expression})"
        done = self.run("-c", code, cwd=cwd)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()


@dataclass(frozen=True)
class Distribution:
    """What is published, and what a packager makes of it.

    Parameters
    ----------
    sdist, wheel : Path
        Built from the checkout.
    rebuilt : Path
        The wheel built from the sdist.
    """

    sdist: Path
    wheel: Path
    rebuilt: Path


def install(folder: Path, *requirements: str) -> Environment:
    """Make a virtual environment; ``.`` among the requirements is the checkout, as a link."""
    _check([sys.executable, ROOT / "tools" / "environment.py", folder, *requirements])
    return Environment(folder)


def build(folder: Path) -> Distribution:
    """Build the sdist, the wheel, and the wheel of the sdist."""
    builder = install(folder / "builder", "hatch-fancy-pypi-readme>=24.1", "hatchling>=1.24")
    command: tuple[str | Path, ...] = (builder.python, "-m", "hatchling", "build", "-d")
    _check([*command, folder / "dist", "-t", "sdist", "-t", "wheel"], cwd=ROOT)
    sdist = only(folder / "dist", "*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    source = only(folder / "source", "*")
    _check([*command, folder / "rebuilt", "-t", "wheel"], cwd=source)
    return Distribution(sdist, only(folder / "dist", "*.whl"), only(folder / "rebuilt", "*.whl"))


def only(folder: Path, pattern: str) -> Path:
    """Return the one path of a pattern."""
    [path] = folder.glob(pattern)
    return path


def _check(command: list[str | Path], cwd: Path = ROOT) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # Of most modules that are installed for a test none is ever imported.
    environment["PIP_COMPILE"] = "0"
    done = run_to_end(command, cwd=cwd, env=environment, timeout=_PATIENCE)
    assert done.returncode == 0, done.stdout
