"""The clock by which leases are observed."""

from __future__ import annotations

import time
from typing import Final

#: macOS's CLOCK_MONOTONIC goes on during sleep; the one of time.monotonic() does not.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def now() -> float:
    """Return the seconds of a clock that cannot be set, and that goes on while the host sleeps.

    Linux's monotonic clock stands still then, and a laptop that wakes would
    take its lease for a fresh one.
    """
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
