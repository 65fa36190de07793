"""Records as a plugin keeps them, and what the end of a server asks of a store."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from jupyter_session_store.errors import InvalidValue
from jupyter_session_store.records import (
    CLOSING,
    STARTING,
    Departure,
    Scope,
    ServerRecord,
    SessionRecord,
)
from jupyter_session_store.testing import AWKWARD, SCOPE, record, server
from tests.unit.kept import KeptRepository, Store

WHOLE = record("a", name="n", version=7)
BARE = record("b", path=None, name=None, kernel_id=None, kernel_model=None, server_id=None)


@pytest.mark.parametrize(
    "one", [WHOLE, BARE, *(record("c", path=text) for text in AWKWARD)], ids=lambda one: one.path
)
def test_a_session_comes_back_from_json(one: SessionRecord) -> None:
    text = json.dumps(one.to_dict())
    assert SessionRecord.from_dict(json.loads(text)) == one


@pytest.mark.parametrize("one", [server("a"), server("b", hostname=None, pid=None, version=None)])
def test_a_server_comes_back_from_json(one: ServerRecord) -> None:
    assert ServerRecord.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_date_is_in_utc_to_the_microsecond() -> None:
    elsewhere = datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=2)))
    values = record("a", created_at=elsewhere).to_dict()
    assert values["created_at"] == "2026-02-28T22:00:00.000000+00:00"
    assert SessionRecord.from_dict(values).created_at == elsewhere


def test_records_of_other_releases_are_read() -> None:
    values = {**WHOLE.to_dict(), "of_a_later_release": 1}
    del values["version"]
    assert SessionRecord.from_dict(values) == WHOLE.replace(version=1)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("path", 7, "Invalid path: it is of type int; expected one of type str."),
        ("state", None, "Invalid state: it is of type NoneType"),
        ("version", "7", "Invalid version: it is of type str; expected one of type int."),
        ("version", True, "Invalid version: it is of type bool"),
        ("created_at", "yesterday", "Invalid created_at: it is no date with an offset"),
        ("created_at", "2026-01-01T00:00:00", "Invalid created_at: it is no date with an offset"),
    ],
)
def test_what_is_no_record_is_refused(field: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidValue) as refusal:
        SessionRecord.from_dict({**WHOLE.to_dict(), field: value})
    assert told in str(refusal.value)


def test_a_field_that_is_missing_is_named() -> None:
    with pytest.raises(InvalidValue, match="Invalid state: it is missing"):
        SessionRecord.from_dict(
            {"namespace": "n", "authority": "a", "session_id": "s"}
            | dict.fromkeys(
                ("path", "name", "type", "kernel_id", "kernel_name", "kernel_model", "server_id")
            )
        )


def test_what_a_departure_removes() -> None:
    departure = Departure(SCOPE, "one", frozenset({"runs"}))
    elsewhere = Scope(SCOPE.namespace, "server:two")
    assert departure.removes(record("a"))
    assert departure.removes(record("a", kernel_id=None))
    assert not departure.removes(record("a", kernel_id="runs"))
    assert not departure.removes(record("a", elsewhere))
    assert not Departure(SCOPE, "one", None).removes(record("a"))


@pytest.mark.parametrize("running", [None, frozenset[str]()])
def test_when_a_departure_keeps_the_registration(running: frozenset[str] | None) -> None:
    departure = Departure(SCOPE, "one", running)
    gateway = Scope(SCOPE.namespace, "gateway:g")
    assert not departure.keeps_registration([record("a"), record("b", gateway)])
    for state in (STARTING, CLOSING):
        assert departure.keeps_registration([record("a"), record("b", gateway, state=state)])
        others = [record("b", gateway, state=state, server_id="two")]
        others.append(record("b", Scope("another", "gateway:g"), state=state))
        assert not departure.keeps_registration(others)
    assert Departure(SCOPE, "one", frozenset({"runs"})).keeps_registration([])


async def test_memory_does_what_a_departure_asks() -> None:
    store = Store()
    repository = KeptRepository(store)
    repository.open(SCOPE, server("one"), timeout=1)
    for one in (record("goes"), record("stays", kernel_id="runs")):
        await repository.add(one)
    repository.close(Departure(SCOPE, "one", frozenset({"runs"})))
    assert [one.session_id for one in store.rows.values()] == ["stays"]
    assert list(store.servers) == [(SCOPE.namespace, "one")]
    repository.open(SCOPE, server("one"), timeout=1)
    repository.close(Departure(SCOPE, "one", frozenset()))
    assert (store.rows, store.servers) == ({}, {})
