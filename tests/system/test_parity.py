"""This manager answers what the stock one answers, whatever is asked in whatever order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import (
    Bundle,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ..databases import Database
from .conftest import stored_in
from .parity import (
    BAD_INPUT,
    CHANGES,
    KERNEL_IDS_ARE_KEPT,
    KERNEL_NAMES,
    KERNELS,
    NEW_KERNELS,
    NOWHERE,
    PATHS,
    REFUSED,
    SESSIONS,
    TEXTS,
    TYPES,
    WITHOUT_A_SESSION,
    Asker,
    New,
    Pair,
    content_of,
    light_config,
    stock_config,
)
from .process import OTHER_KERNEL
from .server import JupyterServer

pytestmark = pytest.mark.system

#: Steps in one sequence.
_STEPS_AT_ONCE: Final = 60
#: So that a sequence does not spend itself on starting kernels.
_MOST_KERNELS: Final = 8


class Machine(Asker):
    """The requests, in any order, after each of which the two servers have to show the same.

    Not among them is what they answer differently, which the tests below show: to delete or move
    away one of many sessions on a kernel, racing creates, bad input, a path under two sessions of
    which the first has just lost its kernel, and a kernel id that was in use before a restart.
    Nor a kernel id that comes back after a renewal has found its kernel gone.
    """

    sessions: Bundle[str] = Bundle("sessions")
    #: Sessions that are deleted, or whose kernel has ended.
    gone: Bundle[str] = Bundle("gone")
    kernels: Bundle[str] = Bundle("kernels")

    def _may_start(self) -> bool:
        return len(self._running) < _MOST_KERNELS

    @initialize(target=sessions, path=PATHS)
    def begin(self, path: str) -> New:
        return self._post("POST", path=path, type="notebook")

    @precondition(_may_start)
    @rule(target=sessions, path=PATHS, kind=TYPES, name=TEXTS | st.none(), kernel=NEW_KERNELS)
    def create(self, path: str, kind: str, name: str | None, kernel: dict[str, Any]) -> New:
        return self._post("POST", path=path, type=kind, name=name, kernel=kernel)

    @precondition(_may_start)
    @rule(target=sessions, path=PATHS, key=st.sampled_from(["path", "name"]))
    def create_by_the_deprecated_key(self, path: str, key: str) -> New:
        return self._post("POST notebook", notebook={key: path})

    @precondition(lambda self: KERNEL_IDS_ARE_KEPT and self._may_start())
    @rule(target=sessions, path=PATHS, kernel=st.uuids(), name=KERNEL_NAMES)
    def create_with_a_new_kernel_id(self, path: str, kernel: UUID, name: str) -> New:
        wanted = {"id": str(kernel), "name": name}
        return self._post("POST kernel id, new", path=path, type="notebook", kernel=wanted)

    @precondition(_may_start)
    @rule(target=sessions, path=PATHS, kernel=kernels)
    def create_on_a_kernel(self, path: str, kernel: str) -> New:
        if kernel not in self._running and not KERNEL_IDS_ARE_KEPT:
            return multiple()
        step = f"POST kernel id, {self._state_of(kernel)}"
        return self._post(step, path=path, type="notebook", kernel={"id": kernel})

    @precondition(_may_start)
    @rule(target=sessions, session=gone, kernel=NEW_KERNELS)
    def create_where_one_was(self, session: str, kernel: dict[str, Any]) -> New:
        return self.create_again(session, kernel)

    @precondition(_may_start)
    @rule(target=sessions, session=sessions, kernel=NEW_KERNELS)
    def create_again(self, session: str, kernel: dict[str, Any]) -> New:
        path = self._paths[session]
        there = any(model["path"] == path for model in self._listed.values())
        step = f"POST on a path that {'has' if there else 'had'} a session"
        return self._post(step, path=path, type="console", name="again", kernel=kernel)

    @precondition(lambda self: self._listed)
    @rule()
    def list_all(self) -> None:
        self._ask("GET all", "GET", SESSIONS)

    @rule(target=kernels, session=sessions)
    def get(self, session: str) -> New:
        answer = self._ask("GET", "GET", SESSIONS, session)
        return answer.body["kernel"]["id"] if answer.status == 200 else multiple()

    @rule(session=sessions, changes=CHANGES)
    def change(self, session: str, changes: dict[str, Any]) -> None:
        step = " ".join(["PATCH", *(sorted(changes) or ["nothing"])])
        self._ask(step, "PATCH", SESSIONS, session, changes)

    @rule(session=sessions, path=PATHS)
    def rename_by_the_deprecated_key(self, session: str, path: str) -> None:
        self._ask("PATCH notebook", "PATCH", SESSIONS, session, {"notebook": {"path": path}})

    @rule(session=sessions, other=sessions)
    def rename_onto_the_path_of_another(self, session: str, other: str) -> None:
        body = {"path": self._paths[other]}
        self._ask("PATCH path, another's", "PATCH", SESSIONS, session, body)

    @precondition(_may_start)
    @rule(session=sessions, name=KERNEL_NAMES, changes=CHANGES)
    def move_by_name(self, session: str, name: str, changes: dict[str, Any]) -> None:
        if self._shares(session):
            self.get(session)
        else:
            body = {**changes, "kernel": {"name": name}}
            self._ask("PATCH kernel name", "PATCH", SESSIONS, session, body)

    @rule(session=sessions, kernel=kernels, changes=CHANGES)
    def move_by_id(self, session: str, kernel: str, changes: dict[str, Any]) -> None:
        same = kernel == self._kernel_of(session)
        if self._shares(session) and not same and kernel in self._running:
            self.get(session)
        else:
            step = f"PATCH kernel id, {'its own' if same else self._state_of(kernel)}"
            body = {**changes, "kernel": {"id": kernel, "name": OTHER_KERNEL}}
            self._ask(step, "PATCH", SESSIONS, session, body)

    @rule(target=gone, session=consumes(sessions), times=st.integers(1, 2))
    def delete(self, session: str, times: int) -> str:
        if self._shares(session):
            self.get(session)
            return session
        self._ask("DELETE", "DELETE", SESSIONS, session)
        if times == 2:
            assert self._ask("DELETE again", "DELETE", SESSIONS, session).status == 404
        return session

    @rule(session=gone, request=WITHOUT_A_SESSION)
    def ask_for_one_that_is_gone(self, session: str, request: tuple[str, Any]) -> None:
        method, body = request if session not in self._listed else ("GET", None)
        self._ask(f"{method} what is gone", method, SESSIONS, session, body)

    @rule(request=WITHOUT_A_SESSION)
    def ask_for_one_that_never_was(self, request: tuple[str, Any]) -> None:
        method, body = request
        self._ask(f"{method} what never was", method, SESSIONS, NOWHERE, body)

    @rule(body=REFUSED)
    def be_refused(self, body: Any) -> None:
        assert self._ask("POST, refused", "POST", SESSIONS, None, body).status == 400

    @precondition(_may_start)
    @rule(target=kernels, name=KERNEL_NAMES)
    def start_a_kernel(self, name: str) -> str:
        return str(self._ask("a kernel starts", "POST", KERNELS, None, {"name": name}).body["id"])

    @rule(kernel=kernels)
    def kill_a_process(self, kernel: str) -> None:
        self._steps[f"the process of a kernel is killed, {self._state_of(kernel)}"] += 1
        self._pair.kill_process(kernel)

    @rule(target=gone, session=consumes(sessions), request=WITHOUT_A_SESSION)
    def end_its_kernel_and_ask(self, session: str, request: tuple[str, Any]) -> str:
        # At once, when no list has shown yet that the kernel is gone.
        self._end_kernel_of(session)
        method, body = request
        self._ask(f"{method} after its kernel ended", method, SESSIONS, session, body)
        return session

    @rule(target=sessions, session=consumes(sessions), how=st.sampled_from(["path", "kernel id"]))
    def end_its_kernel_and_create(self, session: str, how: str) -> New:
        path, kernel = self._paths[session], self._kernel_of(session)
        on_path = {m["kernel"]["id"] for m in self._listed.values() if m["path"] == path}
        self._end_kernel_of(session)
        if how == "kernel id" and kernel and KERNEL_IDS_ARE_KEPT:
            step, path, wanted = "POST kernel id, ended just now", path + "+", {"id": kernel}
        elif len(on_path) > 1:
            self.list_all()
            return multiple()
        else:
            step, wanted = "POST after its kernel ended", {}
        return self._post(step, path=path, type="notebook", kernel=wanted)

    def _end_kernel_of(self, session: str) -> None:
        kernel = self._kernel_of(session)
        if kernel is not None:
            self._ask("a kernel ends", "DELETE", KERNELS, kernel)

    @precondition(lambda self: not self._restarted and len(self._listed) > 2)
    @rule(
        target=gone,
        session=sessions,
        request=WITHOUT_A_SESSION,
        # It takes as long as fifty others.
        now=st.sampled_from([False, False, False, True]),
    )
    def restart(self, session: str, request: tuple[str, Any], now: bool) -> New:
        if not now:
            self.get(session)
            return multiple()
        self._restarted = True
        self._steps["the servers restart"] += 1
        self._pair.restart()
        method, body = request
        self._ask(f"{method} after a restart", method, SESSIONS, session, body)
        return session


NewPair = Callable[[str], Pair]


@pytest.fixture
def new_pair(new_server: Callable[..., JupyterServer], tmp_path: Path) -> Iterator[NewPair]:
    """A function that starts the stock server and one that stores where its argument says."""
    made: list[Pair] = []

    def new(config: str) -> Pair:
        stock = new_server(light_config(stock_config(tmp_path / "stock.db")))
        # One root, since what refuses a path may name it.
        made.append(Pair(stock, new_server(light_config(config), root=stock.root)))
        return made[-1]

    yield new
    for pair in made:
        pair.close()


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_any_sequence_is_answered_as_the_stock_manager_answers_it(
    database: Database, new_pair: NewPair, seed: int, rounds: Callable[[int], int]
) -> None:
    number = rounds(10_000)
    # A renewal leaves out sessions whose kernels have ended, as a list does: none comes between a
    # kernel's end and the request after it.
    lease = "c.PersistentSessionManager.lease_seconds = 3600"
    pair = new_pair(f"{stored_in(database)}\n{lease}\n")
    steps, sequences = Counter[str](), 0

    def machine() -> Machine:
        nonlocal sequences
        sequences += 1
        return Machine(pair, steps)

    settings = hypothesis.settings(
        stateful_step_count=_STEPS_AT_ONCE,
        database=None,
        deadline=None,
        print_blob=True,
        # To shrink takes minutes, and a sequence that fails is short enough to be read.
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    while steps.total() < number:
        seeded: Any = hypothesis.seed(seed + sequences)(machine)
        missing = 2 + (number - steps.total()) // _STEPS_AT_ONCE
        more = hypothesis.settings(settings, max_examples=missing)
        # What it draws from is what the servers have by then. A sequence that it cannot begin as it
        # began another has shown no difference: each step is compared as it is made.
        with suppress(FlakyStrategyDefinition):
            run_state_machine_as_test(seeded, settings=more)
    by_rule = "\n".join(f"{count:6} {step}" for step, count in sorted(steps.items()))
    print(f"{steps.total()} steps in {sequences} sequences, all answered alike:\n{by_rule}")
    assert pair.ours.own_frames() == []


@pytest.fixture
def pair(new_pair: NewPair, tmp_path: Path) -> Pair:
    """The two, for what differs; on which database makes no difference to that."""
    return new_pair(f"c.SessionManager.database_filepath = 'sqlite:///{tmp_path}/ours.db'")


def test_the_stock_manager_ends_a_shared_kernel_with_its_first_session(pair: Pair) -> None:
    first = pair.create("a")
    kernel = first["kernel"]["id"]
    pair.create("b", kernel={"id": kernel})
    assert pair.ask("DELETE", SESSIONS, first["id"]).status == 204
    assert pair.shown() == [([], []), (["b"], [kernel])]


def test_the_stock_manager_ends_a_shared_kernel_that_one_session_leaves(pair: Pair) -> None:
    first = pair.create("a")
    kernel = first["kernel"]["id"]
    pair.create("b", kernel={"id": kernel})
    moved = pair.ask("PATCH", SESSIONS, first["id"], {"kernel": {"name": OTHER_KERNEL}}).body
    assert pair.shown() == [
        (["a"], [moved["kernel"]["id"]]),
        (["a", "b"], [kernel, moved["kernel"]["id"]]),
    ]


def test_the_stock_manager_doubles_sessions_when_creates_race(pair: Pair) -> None:
    def race(server: JupyterServer, path: str) -> int:
        with ThreadPoolExecutor(10) as threads:
            list(threads.map(server.create, [path] * 10))
        return [one["path"] for one in server.sessions()].count(path)

    def doubles(number: int) -> bool:
        stock, ours = pair.on_both(partial(race, path=f"{number}"))
        assert ours == 1
        return bool(stock > 1)

    # Not if the first is answered before the others have begun.
    assert any(map(doubles, range(20)))


def test_the_stock_manager_overlooks_a_session_behind_one_that_has_ended(pair: Pair) -> None:
    first, second = pair.create("a"), pair.create("b")
    assert pair.ask("PATCH", SESSIONS, second["id"], {"path": "a"}).status == 200
    assert pair.ask("DELETE", KERNELS, first["kernel"]["id"]).status == 204
    body = {"path": "a", "type": "notebook"}
    stock, ours = pair.ask_each("POST", SESSIONS, None, body)
    assert ours.body["id"] == second["id"]
    assert stock.body["id"] not in (first["id"], second["id"])
    assert [paths for paths, _ in pair.shown()] == [["a", "a"], ["a"]]


@pytest.mark.skipif(not KERNEL_IDS_ARE_KEPT, reason="no kernel comes again under its id")
def test_the_stock_manager_revives_sessions_of_an_earlier_run(pair: Pair) -> None:
    kernel = {"id": str(uuid4())}
    pair.create("a", kernel=kernel)
    pair.restart()
    pair.create("b", kernel=kernel)
    assert [paths for paths, _ in pair.shown()] == [["a", "b"], ["b"]]


def test_a_kernel_specification_that_is_unknown_is_refused_alike(pair: Pair) -> None:
    session = pair.create("a")
    unknown = {"path": "b", "type": "notebook", "kernel": {"name": "no-such-kernel"}}
    stock, ours = pair.ask_each("PATCH", SESSIONS, session["id"], unknown)
    # Earlier releases answer 500.
    assert ours.status == 501
    assert stock == ours or stock.status == 500
    assert pair.ask("POST", SESSIONS, None, unknown).status == 501
    assert pair.ask("GET", SESSIONS).body == [session]


def test_the_stock_manager_stores_bad_input_or_fails(pair: Pair) -> None:
    def answers(server: JupyterServer) -> list[tuple[int, int]]:
        statuses = []
        for bad, *_ in BAD_INPUT:
            here = server.create("here", name="here")["id"]
            body = bad if isinstance(bad, bytes) else {"path": "a", "type": "notebook", **bad}
            posted = server.api.post(SESSIONS, content=content_of(body))
            patched = server.api.patch(f"{SESSIONS}/{here}", content=content_of(bad))
            statuses.append((posted.status_code, patched.status_code))
            for session in server.sessions():
                assert server.delete(session["id"]).status_code == 204
        return statuses

    stock, ours = pair.on_both(answers)
    assert ours == [(400, 400)] * len(BAD_INPUT)
    accepted = [
        (bad, *[status < 300 for status in one])
        for (bad, *_), one in zip(BAD_INPUT, stock, strict=True)
    ]
    assert accepted == BAD_INPUT
    assert not any(400 <= status < 500 for one in stock for status in one)


def test_the_stock_manager_fails_at_null(pair: Pair) -> None:
    here = pair.create("here")
    for null in ({"kernel": None}, {"notebook": None}):
        posted = pair.ask_each("POST", SESSIONS, None, {"path": "here", "type": "notebook", **null})
        patched = pair.ask_each("PATCH", SESSIONS, here["id"], null)
        assert [answer.status for answer in (*posted, *patched)] == [500, 201, 500, 200]
        assert posted[1].body == patched[1].body == here


def test_the_stock_manager_fails_at_a_path_outside_the_root(pair: Pair) -> None:
    outside = {"path": "../../u", "type": "notebook"}
    stock, ours = pair.ask_each("POST", SESSIONS, None, outside)
    why = "../../u is outside root contents directory"
    assert (stock.status, stock.body["message"]) == (500, f"HTTP 404: Not Found ({why})")
    assert (ours.status, ours.body["message"]) == (404, why)
    # A rename starts no kernel there.
    session = pair.create("a")
    assert pair.ask("PATCH", SESSIONS, session["id"], outside).status == 200
