"""What Jupyter Server's own ``/metrics`` says of the store: the collectors of this process.

No label holds a namespace, a user or a path: however many sessions there are,
the number of series is the same. Several session managers in one process share
the counters; their gauges are added up, but for the sessions of each scope.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from prometheus_client import REGISTRY, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ..paths import digest
from ..records import Scope, StoreDescription
from ..repository import SessionRepository

OK: Final = "ok"
UNAVAILABLE: Final = "unavailable"
SCHEMA_MISMATCH: Final = "schema_mismatch"
CONFLICT: Final = "conflict"
CLAIMED: Final = "claimed"
INVALID: Final = "invalid"
CANCELLED: Final = "cancelled"
ERROR: Final = "error"
#: How a verb may end.
OUTCOMES: Final = (OK, UNAVAILABLE, SCHEMA_MISMATCH, CONFLICT, CLAIMED, INVALID, CANCELLED, ERROR)

RENEWED: Final = "renewed"
#: The server was not registered any more: it was evicted, or the registrations were lost.
REGISTERED: Final = "registered"
FAILED: Final = "failed"
#: What may become of a renewal.
RENEWALS: Final = (RENEWED, REGISTERED, FAILED)

_PREFIX: Final = "jupyter_session_store"
#: Hexadecimal digits: of a million scopes two are alike once in five hundred times.
_LABEL_LENGTH: Final = 12
#: Seconds, from a statement on a local file to the time-out of a request.
_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

operations: Final = Counter(
    f"{_PREFIX}_operations", "Operations on the session store", ["verb", "outcome"]
)
durations: Final = Histogram(
    f"{_PREFIX}_operation_duration_seconds",
    "Seconds that an operation on the session store took, waiting for its turn included",
    ["verb"],
    buckets=_BUCKETS,
)
claim_waits: Final = Counter(
    f"{_PREFIX}_claim_waits",
    "Requests for a session that waited for another request for the same path",
)
renewals: Final = Counter(
    f"{_PREFIX}_renewals", "Attempts of this server to renew its lease", ["outcome"]
)

# A series that begins at its first event shows no increase by it.
for _outcome in RENEWALS:
    renewals.labels(_outcome)


class CountsSessions(Protocol):
    """Counts the sessions of a manager, from any thread."""

    @property
    def number_in_memory(self) -> int | None:
        """How many are in memory; ``None`` where the store has them."""

    @property
    def unsynchronized(self) -> int:
        """How many the store does not have as they are."""


class Meter:
    """What a store shows at each scrape.

    What it has counted stays when it is closed, or dropped: a counter never
    falls. So a process keeps a meter for each store that it has opened.

    It holds no reference to the store.
    """

    def __init__(self, store: SessionRepository) -> None:
        #: Whether the last operation reached the store; ``None`` before the first.
        self.up: bool | None = None
        #: Whose sessions are shown; ``None`` before the store is opened.
        self.scope: Scope | None = None
        #: How many the store had when they were last counted; ``None`` before the first time.
        self.stored: int | None = None
        #: Where sessions are in memory, who counts them.
        self.sessions: Callable[[], CountsSessions | None] = lambda: None
        self._store: Callable[[], SessionRepository | None] = weakref.ref(store)
        self._counted = store.describe()
        _meters.append(self)

    def counted(self) -> StoreDescription:
        """Return what the store has counted so far."""
        store = self._store()
        if store is not None:
            self._counted = store.describe()
        return self._counted

    def close(self, counted: StoreDescription) -> None:
        """Keep what the store has counted, and show no more of it."""
        self._store = lambda: None
        self._counted = counted
        self.sessions = lambda: None
        self.up = self.stored = None

    def number_of_sessions(self) -> int | None:
        """Return how many sessions there are, from memory where it has them."""
        counting = self.sessions()
        in_memory = None if counting is None else counting.number_in_memory
        return self.stored if in_memory is None else in_memory


_meters: Final[list[Meter]] = []


class _Meters(Collector):
    """The metrics that are read where somebody keeps them anyway."""

    def collect(self) -> Iterator[Metric]:
        meters = _meters.copy()
        counted = [meter.counted() for meter in meters]
        for name, text, number in (
            ("statements", "Statements sent to the database", sum(d.statements for d in counted)),
            ("evictions", "Servers that this one has evicted", sum(d.evictions for d in counted)),
        ):
            yield CounterMetricFamily(f"{_PREFIX}_{name}", text, value=number)
        up = [meter.up for meter in meters if meter.up is not None]
        counting = [sessions for meter in meters if (sessions := meter.sessions()) is not None]
        yield GaugeMetricFamily(
            f"{_PREFIX}_up",
            "1 if the last operation reached the session store, else 0",
            value=all(up) if up else None,
        )
        yield _sessions_of(meters)
        yield GaugeMetricFamily(
            f"{_PREFIX}_unsynchronized_sessions",
            "Sessions that changed here and are not in the store as they are",
            value=sum(one.unsynchronized for one in counting),
        )


def _sessions_of(meters: Iterable[Meter]) -> Metric:
    """Return the number of sessions, by the label that is the same on all replicas."""
    numbers: dict[str, int] = {}
    for meter in meters:
        number = meter.number_of_sessions()
        if meter.scope is not None and number is not None:
            label = scope_label(meter.scope)
            # Two managers of one server show the same sessions.
            numbers[label] = max(number, numbers.get(label, 0))
    family = GaugeMetricFamily(
        f"{_PREFIX}_sessions",
        "Sessions of a namespace and authority, once for each server that has them",
        labels=["scope"],
    )
    for label, number in numbers.items():
        family.add_metric([label], number)
    return family


def scope_label(scope: Scope) -> str:
    """Return what the replicas of a server have in common, without a name in it.

    By this the sessions that they share are counted once.
    """
    return digest(scope.namespace, scope.authority)[:_LABEL_LENGTH]


REGISTRY.register(_Meters())
