"""Waiting for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .process import PATIENCE

T = TypeVar("T")


def until(question: Callable[[], T], *, why: str, patience: float = PATIENCE) -> T:
    """Ask until the answer is true, and return it; give up only on what hangs.

    Ever more seldom: most questions are a connection to a database, or a request.
    """
    began = time.monotonic()
    while True:
        answer = question()
        if answer:
            return answer
        waited = time.monotonic() - began
        assert waited < patience, f"in vain: {why}; the last answer was {answer!r}"
        time.sleep(min(0.03 + waited / 10, 0.3))
