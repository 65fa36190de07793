"""A user of light kernels, who knows what a server without a fault would answer."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import httpx

from .client import Model
from .parity import LIGHT_KERNEL, is_dead
from .process import OTHER_KERNEL
from .server import JupyterServer
from .waiting import until

#: Sessions at once.
_MOST: Final = 8


class Known(NamedTuple):
    """What a user knows of a session."""

    session_id: str
    path: str
    name: str
    type: str
    kernel_id: str

    @classmethod
    def of(cls, model: Model) -> Known:
        """Return what a model says."""
        return cls(model["id"], model["path"], model["name"], model["type"], model["kernel"]["id"])


@dataclass
class LightUser:
    """Makes changes at random, and checks that each is answered as if no store could fail.

    Parameters
    ----------
    server : JupyterServer
        Whose kernels are light.
    chance : random.Random
    """

    server: JupyterServer
    chance: random.Random
    #: In the order of a list.
    sessions: list[Known] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    #: Seconds that the slowest answer took, and both of the slowest two in a row. The machine may
    #: be slow once; who waits for the database does so each time.
    slowest: float = 0.0
    slowest_in_a_row: float = 0.0
    _last: float = 0.0

    def change(self) -> None:
        """Make one change, and check what is shown then."""
        verbs: dict[str, Callable[[], None]] = {"create": self._create}
        if len(self.sessions) >= _MOST:
            verbs.clear()
        if self.sessions:
            verbs |= {
                "rename": self._rename,
                "move": self._move,
                "delete": self._delete,
                "end a kernel": self._end_kernel,
                "kill a kernel": self._kill_kernel,
            }
            if len(self.sessions) < _MOST:
                verbs["attach"] = self._attach
        weights = {"create": 3, "rename": 3, "move": 2}
        verb = self.chance.choices(list(verbs), [weights.get(name, 1) for name in verbs])[0]
        self.changes[verb] += 1
        verbs[verb]()
        self.check()

    def check(self) -> None:
        """Check that the server shows what this user knows, one by one and in lists."""
        models = self._ask("list", lambda: self.server.api.get("/api/sessions"), 200).json()
        assert [Known.of(model) for model in models] == self.sessions, self.changes
        kernels = self._ask("kernels", lambda: self.server.api.get("/api/kernels"), 200).json()
        assert sorted(one["id"] for one in kernels) == sorted(
            {one.kernel_id for one in self.sessions}
        ), self.changes
        if self.sessions:
            one = self._choose()
            model = self._ask("get", lambda: self.server.get(one.session_id), 200).json()
            assert Known.of(model) == one

    def _create(self) -> None:
        path = f"{self.changes.total()}.ipynb"
        kernel = {"name": self.chance.choice([LIGHT_KERNEL, OTHER_KERNEL])}
        self._created(path, self._ask("create", lambda: self.server.post(path, kernel=kernel), 201))

    def _attach(self) -> None:
        path = f"{self.changes.total()}.ipynb"
        kernel_id = self._choose().kernel_id
        kernel = {"id": kernel_id}
        answer = self._ask("attach", lambda: self.server.post(path, kernel=kernel), 201)
        assert self._created(path, answer).kernel_id == kernel_id

    def _created(self, path: str, answer: httpx.Response) -> Known:
        new = Known.of(answer.json())
        assert new[1:4] == (path, path, "notebook")
        self.sessions.append(new)
        return new

    def _rename(self) -> None:
        one, other = self._choose(), self._choose()
        # Onto another's path too, whose claim that one keeps.
        onto_another = self.chance.random() < 0.4
        path = other.path if onto_another else f"renamed-{self.changes.total()}.ipynb"
        self._patch(one, {"path": path, "name": "n"}, one._replace(path=path, name="n"))

    def _move(self) -> None:
        one, other = self._choose(), self._choose()
        if self.chance.random() < 0.5:
            kernel = {"id": other.kernel_id}
            self._patch(one, {"kernel": kernel}, one._replace(kernel_id=other.kernel_id))
            return
        kernels = {known.kernel_id for known in self.sessions}
        moved = self._patch(one, {"kernel": {"name": OTHER_KERNEL}})
        assert moved.kernel_id not in kernels
        assert moved._replace(kernel_id=one.kernel_id) == one

    def _patch(self, one: Known, body: Model, expected: Known | None = None) -> Known:
        answer = self._ask("patch", lambda: self.server.patch(one.session_id, **body), 200)
        now = Known.of(answer.json())
        assert expected is None or now == expected
        self.sessions[self.sessions.index(one)] = now
        return now

    def _delete(self) -> None:
        one = self._choose()
        self._ask("delete", lambda: self.server.delete(one.session_id), 204)
        self.sessions.remove(one)

    def _end_kernel(self) -> None:
        kernel_id = self._choose().kernel_id
        self._ask("end", lambda: self.server.api.delete(f"/api/kernels/{kernel_id}"), 204)
        self.sessions = [one for one in self.sessions if one.kernel_id != kernel_id]

    def _kill_kernel(self) -> None:
        """Kill a kernel's process: its session stays, as the stock manager has it."""
        kernel_id = self._choose().kernel_id
        for process in self.server.kernel_processes():
            if kernel_id in " ".join(process.cmdline()):
                os.killpg(process.pid, signal.SIGKILL)
                until(partial(is_dead, process), why="the kernel's process ends")

    def _choose(self) -> Known:
        return self.chance.choice(self.sessions)

    def _ask(self, what: str, send: Callable[[], httpx.Response], status: int) -> httpx.Response:
        began = time.monotonic()
        answer = send()
        seconds = time.monotonic() - began
        self.slowest = max(self.slowest, seconds)
        self.slowest_in_a_row = max(self.slowest_in_a_row, min(self._last, seconds))
        self._last = seconds
        assert answer.status_code == status, f"{what}, after {seconds:.1f} s: {answer.text}"
        return answer
