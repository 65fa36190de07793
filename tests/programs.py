"""Programs that tests run to their end, and what they make once for all tests."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def run_to_end(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program that has nothing to read; its standard output and errors come as one."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def once(folder: Path, make: Callable[[], object]) -> None:
    """Make something once for all the processes of a test run."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make()
            (folder / "made").touch()
