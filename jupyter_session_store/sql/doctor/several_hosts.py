"""The hosts of one URL, compared: each has to be what may become the primary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from ..engine.backend import backend_of
from ..engine.cures import cure_of
from ..engine.hosts import Hosts, hosts_of
from ..engine.places import SEVERAL_FORM, Place
from .findings import Outcome, failed, ok, reason, warning

_CONTRADICTION: Final = "Stop one of them, and see why whoever manages the cluster let both write."
_ASK: Final = "SELECT pg_is_in_recovery(), CAST(pg_postmaster_start_time() AS text)"


@dataclass(frozen=True)
class _Found:
    place: Place
    is_standby: bool = False
    began: str | None = None
    cluster: str | None = None
    fault: str | None = None
    cure: str | None = None

    def __str__(self) -> str:
        return f"{self.place} {self.fault or ('standby' if self.is_standby else 'primary')}"


def hosts(engine: Engine) -> Outcome | None:
    """Connect to each of several hosts, and judge whether they belong together."""
    tried = hosts_of(engine)
    if tried is None or not tried.places:
        return None
    found = [_look(engine, tried, place) for place in tried.places]
    text = "; ".join(map(str, found))
    answered = [one for one in found if one.fault is None]
    if len({one.cluster for one in answered} - {None}) > 1:
        return failed(
            f"{text}: they belong to different clusters; expected a primary and its standbys.",
            f"Name the hosts of one cluster in the URL: {SEVERAL_FORM}",
        )
    # A server may have two names, or a pooler before it.
    if len({one.began for one in answered if not one.is_standby}) > 1:
        return failed(f"{text}; expected one primary.", _CONTRADICTION)
    silent = [one for one in found if one.fault is not None]
    if silent:
        cures = dict.fromkeys(one.cure for one in silent if one.cure)
        return warning(
            f"{text}; expected that each answers, and lets this role in: it may be the next "
            "primary.",
            *cures,
        )
    return ok(f"{text}.")


def _look(engine: Engine, hosts: Hosts, place: Place) -> _Found:
    # The pool of the engine has no second connection.
    other = Engine(engine.pool.recreate(), engine.dialect, engine.url)
    try:
        with hosts.only(place), other.connect() as connection:
            is_standby, began = connection.exec_driver_sql(_ASK).one()
            cluster = backend_of(connection).driver.cluster(connection)
            return _Found(place, bool(is_standby), began, cluster)
    except Exception as error:
        # The place is in the text already.
        before = rf"{re.escape(str(place))}(?: \([^)]*\))?: "
        said = re.sub(before, "", reason(error, engine.url))
        return _Found(place, fault=f"({said})", cure=cure_of(error, engine))
    finally:
        other.dispose()
