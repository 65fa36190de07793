"""Waiting for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .process import PATIENCE

T = TypeVar("T")


def until(question: Callable[[], T], *, why: str) -> T:
    """Ask until the answer is true, and return it; give up only on what hangs."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"in vain: {why}; the last answer was {answer!r}"
        time.sleep(0.05)
