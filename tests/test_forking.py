"""A program that was forked ends as one that was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forking import start

CODES = {
    "a number": "sys.exit(3)",
    "a large number": "sys.exit(263)",
    "a negative number": "sys.exit(-1)",
    "a text": "sys.exit('why')",
    "an error": "raise ValueError('why')",
    "Ctrl-C": "raise KeyboardInterrupt",
    "no new line": "print('told', end='')",
    "at exit": "atexit.register(print, 'late')",
    "at exit, an error": "atexit.register(sys.exit, 'late')",
    "a thread": "threading.Timer(0.1, print, ['late']).start()",
    "a daemon": "threading.Thread(target=time.sleep, args=[60], daemon=True).start()",
    "a finalizer": "weakref.finalize(sys, print, 'late')",
    "a closed stream": "sys.stdout.close()",
    "no stream": "sys.stdout = None",
    "a full disk": "sys.stdout = open('/dev/full', 'w'); print('lost')",
    "a full disk, and a number": "sys.stdout = open('/dev/full', 'w'); print('lost'); sys.exit(3)",
}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_forked_program_ends_as_any_other(code: str, tmp_path: Path) -> None:
    code = f"import atexit, sys, threading, time, weakref; {code}"
    usual = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    forked = start(
        ["-c", code],
        cwd=tmp_path,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = forked.communicate(timeout=60)
    assert (forked.returncode, out) == (usual.returncode, usual.stdout)
    last = [text.strip().splitlines()[-1:] for text in (usual.stderr, err)]
    if "/dev/full" not in code:
        # An interpreter tells of it, and goes on to its last step.
        assert last[1] == last[0]
