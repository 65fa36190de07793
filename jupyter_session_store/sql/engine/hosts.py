"""Trying the hosts of a URL in turn: each has its own time, and one that hangs is tried last.

libpq begins with the first at each connect. Where that one hangs, every connect of a server that
was idle would take a time-out, and a request has no time for more than one or two of these.
"""

from __future__ import annotations

import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

from . import timeouts
from .places import Place

#: For so many seconds a host that has hung is tried last. Later it is where the URL has it, unless
#: another has answered since, and only one can: the primary.
_HUNG_SECONDS: Final = 30.0
#: With these of `target_session_attrs` it does not matter in which order hosts are tried.
_ONE_ANSWERS: Final = frozenset({"primary", "read-write"})
_USUAL_PORT: Final = "5432"
_TIMED_OUT: Final = re.compile(r"time-?out|timed out")
#: What psycopg puts before the reason, which names the host once more.
_BEFORE_REASON: Final = re.compile(
    r'^(?:connection failed: )?(?:connection to server (?:at|on socket) ".*?"(?: \(.*?\))?'
    r"(?:, port \S+)? failed: )?"
)


class Hosts:
    """Connects to the first host that may be used; in the place of the dialect's `connect`.

    Parameters
    ----------
    connect : callable
        Of the driver, by the names of libpq's parameters.
    error : type
        The driver's error.
    limited : bool
        Whether each host gets the time that is usual here, and not one that was given.
    """

    def __init__(
        self, connect: Callable[..., Any], error: type[Exception], *, limited: bool
    ) -> None:
        self._connect = connect
        self._error = error
        self._limited = limited
        #: The hosts of the last connect, if they were several.
        self.places: list[Place] = []
        #: The one that has answered last, and is not known to hang.
        self._good: Place | None = None
        self._hung: dict[Place, float] = {}
        self._only: Place | None = None

    @property
    def answering(self) -> Place | None:
        """Which of several hosts has answered last; ``None`` if there is one."""
        if not self.places or self._good is None:
            return None
        return self._good._replace(address="") if self._good.host else self._good

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Return a connection, or raise an error that says of each host why there is none."""
        places = _places_of(named)
        self.places = places if len(places) > 1 else []
        if self.places:
            named = _defaults() | named
        if self._only is not None:
            places, named["target_session_attrs"] = [self._only], "any"
        attempts = [one for place in places for one in _addresses_of(place)]
        if len(attempts) < 2 and not self.places:
            return self._connect(*args, **named)
        failed: list[tuple[Place, Exception]] = []
        for place, seconds in self._in_order(attempts, named):
            if self._limited:
                named["connect_timeout"] = seconds
            try:
                made = self._connect(*args, **named, **place.parameters())
            except self._error as error:
                if _TIMED_OUT.search(str(error)):
                    self._hung[place] = time.monotonic()
                failed.append((place, error))
            else:
                self._good = place
                return made
        raise _error_of_all(failed)

    def leave(self) -> None:
        """Try the host that has answered last after all others, from any thread.

        It hangs, or it is a standby.
        """
        place, self._good = self._good, None
        if place is not None:
            self._hung[place] = time.monotonic()

    @contextmanager
    def only(self, place: Place) -> Iterator[None]:
        """Connect to one of the places, whatever it is."""
        good, self._only = self._good, place
        try:
            yield
        finally:
            self._good, self._only = good, None

    def _in_order(self, places: list[Place], named: dict[str, Any]) -> list[tuple[Place, int]]:
        """Return the places in the order of the attempts, and how long each may take.

        What all of them have alike is left of `named`.
        """
        for name in ("host", "port", "hostaddr"):
            named.pop(name, None)
        given = named.pop("load_balance_hosts", None) or os.environ.get("PGLOADBALANCEHOSTS")
        first = None
        if given == "random":
            places = random.sample(places, len(places))
        elif not self.places or _one_answers(named):
            first = self._good
        since = time.monotonic() - _HUNG_SECONDS
        places = sorted(places, key=lambda one: (self._hung.get(one, since) > since, one != first))
        # Nothing is left to be tried after the last: a primary that is busy is among these.
        seconds = [timeouts.HOST_TIMEOUT] * (len(places) - 1) + [timeouts.CONNECT_TIMEOUT]
        return list(zip(places, seconds, strict=True))


_HOSTS: Final[WeakKeyDictionary[Engine, Hosts]] = WeakKeyDictionary()


def try_in_turn(engine: Engine, error: type[Exception], *, limited: bool) -> None:
    """Let an engine try several hosts."""
    hosts = _HOSTS[engine] = Hosts(engine.dialect.connect, error, limited=limited)
    engine.dialect.connect = hosts  # type: ignore[method-assign]


def hosts_of(engine: Engine) -> Hosts | None:
    """Return what tries the hosts of an engine; ``None`` if its driver takes one."""
    return _HOSTS.get(engine)


def _defaults() -> dict[str, Any]:
    # Some service or other of libpq's may name it too, for whoever leaves it out here.
    return {} if "PGTARGETSESSIONATTRS" in os.environ else {"target_session_attrs": "read-write"}


def _one_answers(named: Mapping[str, Any]) -> bool:
    given = named.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS")
    return given in _ONE_ANSWERS


def _places_of(named: Mapping[str, Any]) -> list[Place]:
    """Return the places of a connect; none where they are written elsewhere.

    As libpq does, it looks into the environment for what is not given, unless a service is named.
    """
    environment = {} if "service" in named or "PGSERVICE" in os.environ else os.environ
    hosts, ports, addresses = (
        str(named.get(name) or environment.get(variable, "")).split(",")
        for name, variable in (("host", "PGHOST"), ("port", "PGPORT"), ("hostaddr", "PGHOSTADDR"))
    )
    if any(hosts):
        ports = [one or environment.get("PGPORT") or _USUAL_PORT for one in ports]
    number = max(len(hosts), len(addresses))
    lists = [one * number if len(one) == 1 else one for one in (hosts, ports, addresses)]
    if {*map(len, lists)} != {number}:
        # They do not belong together, which the driver says.
        return []
    return [Place(*one) for one in zip(*lists, strict=True)]


def _addresses_of(place: Place) -> list[Place]:
    """Return a place for each address of a name, as psycopg tries them."""
    if place.address or not place.host or place.host[0] in "/@":
        return [place]
    try:
        found = socket.getaddrinfo(
            place.host, place.port or None, proto=socket.IPPROTO_TCP, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        # The driver says so.
        return [place]
    return [place._replace(address=str(one[4][0])) for one in found]


def _error_of_all(failed: list[tuple[Place, Exception]]) -> Exception:
    """Return one error for all, in one line: that of the last host alone may be none to mend."""
    reasons = []
    for place, error in failed:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        reasons.append(f"{place}: {_BEFORE_REASON.sub('', first)}")
    return type(failed[-1][1])("; ".join(reasons))
