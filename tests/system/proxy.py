"""JupyterHub's proxy, which is a program of Node's: installed once, for all runs of the tests."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

_NAME: Final = "configurable-http-proxy"
#: The last that the Node of Debian 12 and of Ubuntu 24.04 runs.
_RELEASE: Final = "5.1"
#: Seconds; it takes ten.
_PATIENCE: Final = 240

#: Ignored by git, and removed by `make clean`.
_FOLDER: Final = Path(__file__).resolve().parent.parent.parent / ".venvs"


def proxy_program() -> Path:
    """Return the program, installed by npm if it is not there yet.

    Processes may call this at once: one installs, the others wait for it.
    """
    _FOLDER.mkdir(exist_ok=True)
    installed = _FOLDER / f"{_NAME}-{_RELEASE}"
    with open(_FOLDER / f"{_NAME}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            with tempfile.TemporaryDirectory(dir=_FOLDER, prefix=f"{_NAME}-") as folder:
                whole = Path(folder) / "whole"
                _install(whole)
                whole.rename(installed)
    return installed / "node_modules" / ".bin" / _NAME


def _install(folder: Path) -> None:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    assert not missing, f"{' and '.join(missing)} not installed: see `make test` in the README"
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
    done = subprocess.run(
        ["npm", "install", "--prefix", folder, *options, f"{_NAME}@{_RELEASE}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"npm cannot install {_NAME}:\n{done.stdout}"
