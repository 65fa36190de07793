"""The samples of a run, and what they come to."""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Key:
    """What was measured."""

    suite: str
    kind: str
    database: str
    measure: str
    #: Rows in the table, where that is what varies.
    rows: int | None = None


@dataclass
class Results:
    """All samples of one run, by what was measured."""

    samples: dict[Key, list[float]] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Tell how far the run is."""
        print(text, file=sys.stderr, flush=True)

    def add(
        self,
        suite: str,
        kind: str,
        database: str,
        measure: str,
        samples: list[float],
        rows: int | None = None,
    ) -> None:
        """Add samples."""
        self.samples.setdefault(Key(suite, kind, database, measure, rows), []).extend(samples)

    def get(
        self, suite: str, kind: str, database: str, measure: str, rows: int | None = None
    ) -> list[float]:
        """Return the samples; none if it was not measured."""
        return self.samples.get(Key(suite, kind, database, measure, rows), [])

    def median(
        self, suite: str, kind: str, database: str, measure: str, rows: int | None = None
    ) -> float | None:
        """Return the median of the samples, if there are any."""
        samples = self.get(suite, kind, database, measure, rows)
        return statistics.median(samples) if samples else None

    def percentile(self, suite: str, kind: str, database: str, measure: str, share: float) -> float:
        """Return the sample that `share` of the samples, of which there are some, do not exceed."""
        ordered = sorted(self.get(suite, kind, database, measure))
        return ordered[max(0, math.ceil(len(ordered) * share) - 1)]

    def as_json(self) -> list[dict[str, Any]]:
        """Return what each measure came to, with its spread."""
        found = []
        for key, samples in self.samples.items():
            ordered = sorted(samples)
            low, high = (ordered[int(len(ordered) * share)] for share in (0.25, 0.75))
            found.append(
                {
                    **vars(key),
                    "samples": len(samples),
                    "median": statistics.median(samples),
                    "quartiles": [low, high],
                    "least": ordered[0],
                    "most": ordered[-1],
                }
            )
        return found
