"""The shell's Tab key, as argcomplete asks for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .support import COMMAND, PATIENCE, environment


def completed(line: str, home: Path) -> set[str]:
    """Return what the Tab key offers after a line that begins with ``jupyter``."""
    command = Path(COMMAND).with_name(line.split(maxsplit=1)[0])
    answer = home / "answer"
    with answer.open("wb") as file:
        # The shell's own descriptor for the answer.
        done = subprocess.run(
            ["bash", "-c", f'"$0" 8>&{file.fileno()} 9>/dev/null', command],
            env=environment(
                home,
                _ARGCOMPLETE="1",
                _ARGCOMPLETE_SUPPRESS_SPACE="1",
                COMP_LINE=line,
                COMP_POINT=str(len(line)),
                COMP_TYPE="9",
            ),
            pass_fds=[file.fileno()],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done
    return {*answer.read_text().split("\v")} - {""}


@pytest.mark.parametrize("words", ["jupyter-session-store", "jupyter session-store"])
def test_subcommands_and_their_options(home: Path, words: str) -> None:
    assert completed(f"{words} p", home) == {"prune", "purge"}
    offered = completed(f"{words} prune --", home)
    assert {"--older-than", "--dead-servers", "--dry-run", "--url", "--help"} <= offered
    assert not any("." in one for one in offered)
    assert completed(f"{words} list --state r", home) == {"ready"}
