"""Servers killed in each phase of a create and of a delete, with kernels on a gateway."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from ..databases import Database
from .client import Model
from .conftest import stored_in
from .faults import locked, number_of_waiting_statements
from .gateway import Gateway
from .process import OTHER_KERNEL
from .rows import Row, rows_of
from .server import JupyterServer
from .waiting import until

pytestmark = [pytest.mark.system, pytest.mark.torture, pytest.mark.timeout(1200)]

NewServer = Callable[..., JupyterServer]
LEASE = 3


@dataclass
class Scene:
    """Servers that are going to be killed, one that is not, and what they share.

    Parameters
    ----------
    database : Database
    gateway : Gateway
    witness : JupyterServer
        Lives on, and evicts the others.
    victims : list of JupyterServer
    """

    database: Database
    gateway: Gateway
    witness: JupyterServer
    victims: list[JupyterServer]
    acknowledged: list[Model] = field(default_factory=list)

    @contextmanager
    def frozen_gateway(self) -> Iterator[None]:
        """Let the gateway answer nothing; what it was asked meanwhile it does afterwards."""
        process = psutil.Process(self.gateway.pid)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def all_waiting(self) -> None:
        """Wait until a statement of every victim waits for a lock."""
        if self.database.kind == "sqlite":
            # Nobody can tell; a request that came later is one killed before it began.
            time.sleep(0.3)
            return
        number = len(self.victims)
        until(lambda: number_of_waiting_statements(self.database) >= number, why="all wait")

    def states(self) -> Counter[str]:
        """Return how many rows are in which state."""
        return Counter(row.state for row in sessions_of(self))

    def all_in(self, state: str) -> None:
        """Wait until a row of every victim is in a state."""
        until(lambda: self.states()[state] == len(self.victims), why=f"all are {state}")

    def kill(self) -> None:
        """End every victim with SIGKILL."""
        for victim in self.victims:
            victim.kill()


@contextmanager
def asking(scene: Scene, ask: Callable[[JupyterServer, int], httpx.Response]) -> Iterator[None]:
    """Have every victim asked at once; that it dies before it answers is no error."""

    def attempt(place: int) -> None:
        with suppress(httpx.TransportError):
            ask(scene.victims[place], place)

    with ThreadPoolExecutor(len(scene.victims)) as threads:
        for place in range(len(scene.victims)):
            threads.submit(attempt, place)
        yield


def post(victim: JupyterServer, place: int) -> httpx.Response:
    return victim.post(f"{place}.ipynb")


def create_before_the_claim(scene: Scene) -> None:
    with locked(scene.database), asking(scene, post):
        scene.all_waiting()
        scene.kill()


def create_claimed(scene: Scene) -> None:
    with scene.frozen_gateway(), asking(scene, post):
        scene.all_in("starting")
        scene.kill()


def create_kernel_started(scene: Scene) -> None:
    with ExitStack() as stack:
        thaw = stack.enter_context(ExitStack())
        thaw.enter_context(scene.frozen_gateway())
        stack.enter_context(asking(scene, post))
        scene.all_in("starting")
        stack.enter_context(locked(scene.database))
        thaw.close()
        until(lambda: scene.gateway.hosts(len(scene.victims)), why="the kernels start")
        scene.all_waiting()
        scene.kill()


def create_claimed_and_stopped(scene: Scene) -> None:
    """Stopped in order: nobody evicts who has departed."""
    with ExitStack() as stack:
        thaw = stack.enter_context(ExitStack())
        thaw.enter_context(scene.frozen_gateway())
        stack.enter_context(asking(scene, post))
        scene.all_in("starting")
        for victim in scene.victims:
            os.kill(victim.pid, signal.SIGTERM)
        time.sleep(0.5)
        thaw.close()
        for victim in scene.victims:
            victim.exit_code()


def create_saved(scene: Scene) -> None:
    scene.acknowledged += [v.create(f"{place}.ipynb") for place, v in enumerate(scene.victims)]
    scene.kill()


def delete(scene: Scene) -> Callable[[JupyterServer, int], httpx.Response]:
    """Create a session on every victim; return what deletes them."""
    models = [v.create(f"{place}.ipynb") for place, v in enumerate(scene.victims)]
    scene.acknowledged += models
    return lambda victim, place: victim.delete(models[place]["id"])


def starting(scene: Scene) -> set[str]:
    """Return the ids of the rows that name a kernel which is being started."""
    return {row.session_id for row in rows_of(scene.database) if row.state == "starting"}


def patch_kernel_started(scene: Scene) -> None:
    """The kernel that a session was to move to goes; the session stays where it was."""
    models = [v.create(f"{place}.ipynb") for place, v in enumerate(scene.victims)]
    scene.acknowledged += models
    # Of an earlier phase one may be left that names a kernel which could still come.
    before = starting(scene)

    def asked(victim: JupyterServer, place: int) -> httpx.Response:
        return victim.patch(models[place]["id"], kernel={"name": OTHER_KERNEL})

    with ExitStack() as stack:
        thaw = stack.enter_context(ExitStack())
        thaw.enter_context(scene.frozen_gateway())
        stack.enter_context(asking(scene, asked))
        until(
            lambda: len(starting(scene) - before) == 2 * len(scene.victims),
            why="each names the kernel that it leaves and the one that it is going to start",
        )
        stack.enter_context(locked(scene.database))
        thaw.close()
        until(lambda: scene.gateway.hosts(2 * len(scene.victims)), why="the kernels start")
        scene.all_waiting()
        scene.kill()


def delete_before_the_mark(scene: Scene) -> None:
    asked = delete(scene)
    with locked(scene.database), asking(scene, asked):
        scene.all_waiting()
        scene.kill()


def delete_marked(scene: Scene) -> None:
    asked = delete(scene)
    scene.acknowledged.clear()
    with scene.frozen_gateway(), asking(scene, asked):
        scene.all_in("closing")
        scene.kill()


def delete_kernel_shut_down(scene: Scene) -> None:
    asked = delete(scene)
    scene.acknowledged.clear()
    with ExitStack() as stack:
        thaw = stack.enter_context(ExitStack())
        thaw.enter_context(scene.frozen_gateway())
        stack.enter_context(asking(scene, asked))
        scene.all_in("closing")
        # Each counts once more, and asks the gateway then.
        time.sleep(1)
        stack.enter_context(locked(scene.database))
        thaw.close()
        until(lambda: scene.gateway.hosts(0), why="the kernels end")
        scene.all_waiting()
        scene.kill()


def delete_removed(scene: Scene) -> None:
    asked = delete(scene)
    scene.acknowledged.clear()
    for place, victim in enumerate(scene.victims):
        assert asked(victim, place).status_code == 204
    scene.kill()


PHASES = (
    create_before_the_claim,
    create_claimed,
    create_claimed_and_stopped,
    create_kernel_started,
    create_saved,
    patch_kernel_started,
    delete_before_the_mark,
    delete_marked,
    delete_kernel_shut_down,
    delete_removed,
)


def sessions_of(scene: Scene) -> list[Row]:
    """Return the rows that are sessions.

    One without a path holds no claim, and names a kernel that may come yet: the witness looks
    for it for longer than a gateway takes, and then removes the row.
    """
    return [row for row in rows_of(scene.database) if row.path is not None]


def settled(scene: Scene) -> bool:
    """Return whether what is stored, what runs and what is listed are the same."""
    listed = scene.witness.sessions()
    rows = sessions_of(scene)
    return (
        all(row.state == "ready" for row in rows)
        and scene.gateway.hosts(len(rows))
        and sorted(scene.gateway.kernels()) == sorted(row.kernel_id for row in rows)
        and [model["id"] for model in listed] == [row.session_id for row in rows]
    )


def check(scene: Scene) -> None:
    """Check what is left of the killed servers after their leases."""
    # Not the witness itself, which may have been slow: it would be back.
    until(
        lambda: scene.database.rows("SELECT pid FROM jupyter_servers") == [(scene.witness.pid,)],
        why="the killed servers are evicted",
    )
    until(lambda: settled(scene), why="no kernel is without a session, no session without one")
    rows = sessions_of(scene)
    paths = [row.path for row in rows]
    assert len(paths) == len(set(paths)), "a session was doubled"
    claims = scene.database.rows("SELECT count(*) FROM jupyter_sessions WHERE claim IS NOT NULL")
    assert claims == [(len(rows),)]
    lost = {model["id"] for model in scene.acknowledged} - {row.session_id for row in rows}
    assert not lost, "an acknowledged session was lost"
    # Whoever asks again gets it, or a new one.
    for place in range(len(scene.victims)):
        again = scene.witness.create(f"{place}.ipynb")
        assert again["id"] in {row.session_id for row in rows} or again["path"] not in paths
    until(lambda: settled(scene), why="one session for each path")
    assert len(sessions_of(scene)) == len(scene.victims)


def clean(scene: Scene) -> None:
    """End all sessions and kernels."""
    scene.acknowledged.clear()
    held = scene.witness.kernels()
    for model in scene.witness.sessions():
        if model["kernel"]["id"] in held:
            assert scene.witness.delete(model["id"]).status_code == 204
        else:
            scene.gateway.api.delete(f"/api/kernels/{model['kernel']['id']}")
    until(lambda: settled(scene) and not sessions_of(scene), why="nothing is left")


def test_servers_killed_in_each_phase(
    database: Database,
    new_server: NewServer,
    rounds: Callable[[int], int],
    share: Callable[..., Sequence[Callable[[Scene], None]]],
    tmp_path: Path,
) -> None:
    number = rounds(10)
    with ExitStack() as stack:
        gateway = Gateway()
        stack.callback(gateway.close)
        gateway.start()
        config = (
            f"{stored_in(database)}\n{gateway.client_config}"
            "c.ServerApp.kernel_manager_class ="
            " 'jupyter_session_store.gateway.PersistentGatewayKernelManager'\n"
            f"c.PersistentSessionManager.lease_seconds = {LEASE}\n"
            # A gateway takes as long at most.
            "c.GatewayClient.request_timeout = 20\n"
        )
        witness, *victims = (new_server(config, root=tmp_path) for _ in range(number + 1))
        witness.start()
        scene = Scene(database, gateway, witness, victims)
        counts = {}
        for phase in share(PHASES, ("sqlite", "postgresql", "mysql")):
            with ThreadPoolExecutor(number) as threads:
                list(threads.map(JupyterServer.start, victims))
            phase(scene)
            check(scene)
            counts[phase.__name__] = number
            clean(scene)
        until(lambda: rows_of(database) == [], why="what could still come has not come")
        assert gateway.kernels() == []
        assert witness.own_frames() == []
        print(f"ended, by phase: {counts}: nothing lost, doubled or left over")
