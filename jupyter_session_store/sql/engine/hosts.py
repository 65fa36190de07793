"""Trying the hosts of a URL in turn: each has its own time.

One that has hung is tried last, and only once it has answered a question.

libpq begins with the first at each connect. Where that one hangs, every connect of a server that
was idle would take a time-out, and a request has no time for more than one or two of these. After a
failover even one is too long: the standby, which took no writes when it was tried, may be the
primary a moment later. So the other hosts are tried again while the host that hangs is asked.
"""

from __future__ import annotations

import math
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
from .places import USUAL_PORT, Place
from .speaking import Questions

#: For so many seconds a host that has hung is tried last. Later it is where the URL has it, unless
#: another has answered since, and only one can: the primary.
_HUNG_SECONDS: Final = 30.0
#: Seconds until the others are tried again, while a host that hangs does not answer.
_PAUSE: Final = 0.5
#: With these of `target_session_attrs` it does not matter in which order hosts are tried.
_ONE_ANSWERS: Final = frozenset({"primary", "read-write"})
_TIMED_OUT: Final = re.compile(r"time-?out|timed out")
#: Before what a server says itself, such as a pooler whose own server hangs: it does not hang.
_TOLD: Final = "FATAL:"
#: Of a host to which no connect was made, since it did not answer: as psycopg says it.
_SILENCE: Final = "connection timeout expired"
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
        The driver's error of a connect that has failed.
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
        return self._connect_to_one_of(self._in_order(attempts, named), args, named)

    def _connect_to_one_of(
        self, places: list[Place], args: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        patience = timeouts.CONNECT_TIMEOUT if self._limited else _seconds_of(named)
        deadline = time.monotonic() + patience
        hanging = [one for one in places if self._has_hung(one)]
        due = {one: timeouts.HOST_TIMEOUT for one in places if one not in hanging}
        if not hanging:
            # Nothing is left to be tried after the last: a primary that is busy is among these.
            due[places[-1]] = timeouts.CONNECT_TIMEOUT
        failed: dict[Place, Exception] = {}
        answering: list[Place] = []
        with Questions() as questions:
            while True:
                for place, seconds in due.items():
                    limit = {"connect_timeout": seconds} if self._limited else {}
                    try:
                        made = self._connect(*args, **{**named, **limit, **place.parameters()})
                    except self._error as error:
                        failed[place] = error
                        if _is_silent(error):
                            self._hung[place] = time.monotonic()
                    else:
                        self._good = place
                        self._hung.pop(place, None)
                        return made
                hanging = [one for one in places if _is_silent(failed.get(one))]
                self._hung |= dict.fromkeys(hanging, time.monotonic())
                left = deadline - time.monotonic()
                if not hanging or left <= 0:
                    raise _error_of_all(places, failed, self._error)
                if not set(answering).isdisjoint(hanging):
                    # It speaks and lets nobody in: it would answer each question at once.
                    time.sleep(min(_PAUSE, left))
                answering = questions.wait(hanging, min(_PAUSE, left))
                last = max(timeouts.HOST_TIMEOUT, math.ceil(left))
                due = {one: timeouts.HOST_TIMEOUT for one in places if one not in hanging}
                due |= dict.fromkeys(answering, last)

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

    def _in_order(self, places: list[Place], named: dict[str, Any]) -> list[Place]:
        """Return the places in the order of the attempts; leave of `named` what all have alike."""
        for name in ("host", "port", "hostaddr"):
            named.pop(name, None)
        given = named.pop("load_balance_hosts", None) or os.environ.get("PGLOADBALANCEHOSTS")
        first = None
        if given == "random":
            places = random.sample(places, len(places))
        elif not self.places or _one_answers(named):
            first = self._good
        return sorted(places, key=lambda one: (self._has_hung(one), one != first))

    def _has_hung(self, place: Place) -> bool:
        since = time.monotonic() - _HUNG_SECONDS
        return self._hung.get(place, since) > since


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
        ports = [one or environment.get("PGPORT") or USUAL_PORT for one in ports]
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


def _seconds_of(named: Mapping[str, Any]) -> float:
    """Return the time-out of a connect that was given; what libpq takes for none is ours."""
    try:
        given = int(named.get("connect_timeout") or 0)
    except ValueError:
        # The driver says so.
        given = 0
    return given if given > 0 else timeouts.CONNECT_TIMEOUT


def _is_silent(error: Exception | None) -> bool:
    """Return whether a place hangs: an attempt timed out, or none was made for that reason."""
    said = _SILENCE if error is None else str(error)
    return _TOLD not in said and _TIMED_OUT.search(said) is not None


def _error_of_all(
    places: list[Place], failed: Mapping[Place, Exception], kind: type[Exception]
) -> Exception:
    """Return one error for all, in one line: that of the last host alone may be none to mend."""
    reasons = []
    for place in places:
        said = str(failed.get(place, _SILENCE)).strip()
        first, *_ = said.splitlines() or [type(failed[place]).__name__]
        reasons.append(f"{place}: {_BEFORE_REASON.sub('', first)}")
    kinds: list[type[Exception]] = [kind, *map(type, failed.values())]
    return kinds[-1]("; ".join(reasons))
