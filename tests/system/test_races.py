"""Processes that race on one store, each with a repository of its own, many rounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..databases import Database
from .racing import LEAD, fill, race_close_and_move, racing

pytestmark = [pytest.mark.system, pytest.mark.torture, pytest.mark.timeout(900)]


def sessions(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT session_id, state, kernel_id FROM jupyter_sessions")


def test_creates_of_one_path_from_eight_processes(
    database: Database, rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    number, waited = rounds(200), 0
    with racing([database] * 8, tmp_path) as racers:
        for turn in range(number):
            start = chance.uniform(0, 0.01)
            begin = time.monotonic() + LEAD
            for place, racer in enumerate(racers):
                # Half of them around the moment when the first has finished.
                late = start + chance.uniform(-0.002, 0.008) if place >= 4 else 0.0
                racer.ask(begin + max(0.0, late), "create", path=f"path-{turn}", start=start)
            answers = [racer.answer() for racer in racers]
            created = [answer for answer in answers if "created" in answer]
            assert len(created) == 1, answers
            assert created[0]["saved"]
            held = [answer["holder"] for answer in answers if "holder" in answer]
            assert held == [created[0]["created"]] * 7
            waited += len(held)
        rows = sessions(database)
    assert len(rows) == len({row[0] for row in rows}) == number
    assert {row[1] for row in rows} == {"ready"}
    print(f"{number} rounds of 8 creates of one path: 1 row each, {waited} got the holder's.")


def test_two_deletes_of_the_sessions_on_one_kernel(
    database: Database, rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    number, first_last = rounds(200), 0
    with racing([database] * 2, tmp_path) as (one, two):
        for turn in range(number):
            fill(one, f"a{turn}", f"b{turn}", kernel_id=f"k{turn}")
            begin = time.monotonic() + LEAD
            one.ask(begin + chance.uniform(0, 0.001), "delete", session_id=f"a{turn}")
            two.ask(begin + chance.uniform(0, 0.001), "delete", session_id=f"b{turn}")
            last = [one.answer()["last"], two.answer()["last"]]
            assert last.count(True) == 1, last
            first_last += last[0]
        assert sessions(database) == []
    print(
        f"{number} rounds of 2 deletes on one kernel: exactly one last, the first in {first_last}."
    )


def test_a_delete_and_two_moves_of_the_sessions_on_one_kernel(
    database: Database, rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    number, last = rounds(200), {"delete": 0, "move": 0}
    with racing([database] * 3, tmp_path) as (one, two, three):
        for turn in range(number):
            fill(one, f"a{turn}", f"b{turn}", f"c{turn}", kernel_id=f"k{turn}")
            begin = time.monotonic() + LEAD
            one.ask(begin + chance.uniform(0, 0.001), "delete", session_id=f"a{turn}")
            for racer, name in ((two, "b"), (three, "c")):
                racer.ask(
                    begin + chance.uniform(0, 0.001),
                    "move",
                    session_id=f"{name}{turn}",
                    kernel_id=f"k{turn}",
                )
            answers = [racer.answer()["last"] for racer in (one, two, three)]
            assert answers.count(True) == 1, answers
            last["delete" if answers[0] else "move"] += 1
        rows = sessions(database)
    assert len(rows) == 2 * number
    assert {row[2] for row in rows} == {f"kernel-of-{row[0]}" for row in rows}
    print(f"{number} rounds of a delete and 2 moves on one kernel: exactly one last, {last}")


def test_a_delete_and_a_move_of_one_session(
    database: Database, rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    """Whichever comes second counts on the kernel that the first has left the session on."""
    chance = random.Random(seed)
    number, first = rounds(200), {"delete": 0, "move": 0}
    with racing([database] * 2, tmp_path) as (one, two):
        for turn in range(number):
            came_first = race_close_and_move(one, two, turn, chance, apart=0.001, seed=seed)
            first[came_first] += 1
    print(f"{number} rounds of a delete and a move of one session, first was: {first}")


def test_two_deletes_and_an_attaching_create(
    database: Database, rounds: Callable[[int], int], seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    number, outcomes = rounds(200), {"lives": 0, "ended": 0, "came again": 0}
    with racing([database] * 3, tmp_path) as (one, two, three):
        for turn in range(number):
            kernel_id = f"k{turn}"
            fill(one, f"a{turn}", f"b{turn}", kernel_id=kernel_id)
            begin = time.monotonic() + LEAD
            one.ask(begin + chance.uniform(0, 0.002), "delete", session_id=f"a{turn}")
            two.ask(begin + chance.uniform(0, 0.002), "delete", session_id=f"b{turn}")
            three.ask(
                begin + chance.uniform(0, 0.004),
                "attach",
                session_id=f"c{turn}",
                kernel_id=kernel_id,
            )
            ended = [one.answer()["last"], two.answer()["last"]].count(True)
            attached = three.answer()["attached"]
            if not attached and not ended:
                # It gave way to a closer that had seen it. As the manager does, it comes again.
                three.ask(0, "attach", session_id=f"c{turn}", kernel_id=kernel_id)
                attached = three.answer()["attached"]
                outcomes["came again"] += 1
            left = [row[0] for row in sessions(database) if row[2] == kernel_id]
            assert left == ([f"c{turn}"] if attached else [])
            assert ended == (0 if attached else 1), (ended, attached)
            outcomes["ended" if ended else "lives"] += 1
    print(f"{number} rounds of 2 deletes and an attaching create: {outcomes}")
