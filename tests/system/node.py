"""Packages of Node's, JupyterHub's proxy among them: installed once, for all runs of the tests."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import Final

from ..programs import run_to_end

#: Seconds; it takes ten.
_PATIENCE: Final = 240

#: Ignored by git, and removed by `make clean`.
_FOLDER: Final = Path(__file__).resolve().parent.parent.parent / ".venvs"


def node_package(name: str, release: str) -> Path:
    """Return the folder of a package, installed by npm if it is not there yet.

    Processes may call this at once: one installs, the others wait for it.
    """
    _FOLDER.mkdir(exist_ok=True)
    # One of a scope has a slash.
    plain = name.replace("/", "+")
    installed = _FOLDER / f"{plain}-{release}"
    with open(_FOLDER / f"{plain}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            with tempfile.TemporaryDirectory(dir=_FOLDER, prefix=f"{plain}-") as folder:
                whole = Path(folder) / "whole"
                _install(whole, f"{name}@{release}")
                whole.rename(installed)
    return installed / "node_modules" / name


def _install(folder: Path, package: str) -> None:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    assert not missing, f"{' and '.join(missing)} not installed: see `make test` in the README"
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
    command: list[str | Path] = ["npm", "install", "--prefix", folder, *options, package]
    done = run_to_end(command, timeout=_PATIENCE)
    assert done.returncode == 0, f"npm cannot install {package}:\n{done.stdout}"
