"""Servers that are started in unusual ways, and kernels that are run in unusual ways."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import which
from typing import Final

import psutil
import pytest

from ..databases import Database
from .conftest import stored_in
from .outliving import OutlivingServer, has_ended
from .parity import LIGHT_KERNEL, light_config
from .process import OTHER_KERNEL
from .waiting import until

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.only("sqlite", reason="how servers and kernels are started, whatever the store"),
]

NewServer = Callable[..., OutlivingServer]


@pytest.fixture
def new_server(new_outliving_server: NewServer) -> NewServer:
    """A function that makes a server with light kernels, and others."""

    def new(config: str, **how: object) -> OutlivingServer:
        server = new_outliving_server(light_config(config), **how)
        server.add_light_kernel()
        return server

    return new


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until the end."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_server_that_is_started_from_a_notebook(
    database: Database, new_server: NewServer, other: subprocess.Popen[bytes]
) -> None:
    """What says whose end a kernel is to share says it of the notebook's kernel, not of these."""
    environment = f"import os\nos.environ['JPY_PARENT_PID'] = '{other.pid}'\n"
    server = new_server(environment + stored_in(database))
    server.start()
    light = server.create("light.ipynb")["kernel"]["id"]
    real = server.create("real.ipynb", kernel={"name": OTHER_KERNEL})["kernel"]["id"]
    server.execute(real, "x = 5")
    restart = f"/api/kernels/{light}/restart"
    processes = [server.process_of(light)]
    assert server.api.post(restart).status_code == 200
    processes.append(server.process_of(light))
    other.kill()
    other.wait()
    server.restart()
    assert set(server.kernels()) == {light, real}
    # It looks once a second whether its parent is there.
    told = server.channels(real)
    request = told.begin("import time\ntime.sleep(2.5)\nprint(x)")
    assert told.finish(request) == "5\n"
    told.close()
    assert server.api.post(restart).status_code == 200
    processes.append(server.process_of(light))
    assert len({one.pid for one in processes}) == 3
    assert "JPY_PARENT_PID" not in processes[-1].environ()
    assert "JPY_PARENT_PID" not in server.process_of(real).environ()


#: An extension that makes children of all kinds, which live on when their server is killed, as
#: soon as there is a kernel.
_FORKING: Final = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from types import ModuleType

pids = Path({pids!r})

def sleep():
    time.sleep(600)

def fork(begin):
    child = os.fork()
    if not child:
        os.setsid()
        begin()
    return child

def load(app):
    if len(app.kernel_manager):
        process = multiprocessing.get_context("fork").Process(target=sleep)
        process.start()
        children = [
            process.pid,
            fork(sleep),
            fork(lambda: os.execvp("sleep", ["sleep", "600"])),
            subprocess.Popen(["sleep", "600"], close_fds=False).pid,
        ]
        pids.write_text(" ".join(map(str, children)))

extension = sys.modules["forking_extension"] = ModuleType("forking_extension")
extension._jupyter_server_extension_points = lambda: [{{"module": "forking_extension"}}]
extension._load_jupyter_server_extension = load
c.ServerApp.jpserver_extensions["forking_extension"] = True
"""


def test_a_server_whose_extension_forks(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    """The lock ends with the server, whatever the children do that have its descriptors."""
    pids = tmp_path / "pids"
    server = new_server(f"{stored_in(database)}\n{_FORKING.format(pids=str(pids))}")
    server.start()
    kernel_id = server.create("a.ipynb")["kernel"]["id"]
    assert not pids.exists()
    children: list[psutil.Process] = []
    try:
        for turn in range(3):
            server.end("SIGKILL")
            assert len(children) == 4 * turn
            assert [one for one in children if has_ended(one)] == []
            server.start()
            children += [psutil.Process(int(one)) for one in pids.read_text().split()]
            assert [one["path"] for one in server.sessions()] == ["a.ipynb"]
            assert server.kernels() == [kernel_id]
            assert server.record(kernel_id)["owner"][0] == server.pid
    finally:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


class ServerOnTerminal(OutlivingServer):
    """A server on a terminal of its own."""

    def command(self) -> list[str]:
        """Return what runs the server under script(1)."""
        return ["script", "-qec", shlex.join(super().command()), "/dev/null"]


@pytest.mark.skipif(which("script") is None, reason="there is no script(1)")
def test_a_server_whose_terminal_goes_away(database: Database) -> None:
    server = ServerOnTerminal(light_config(stored_in(database)), fork=False)
    try:
        server.add_light_kernel()
        server.start()
        session = server.create("a.ipynb", kernel={"name": OTHER_KERNEL})
        kernel_id = session["kernel"]["id"]
        server.execute(kernel_id, "x = 5")
        owner = psutil.Process(server.record(kernel_id)["owner"][0])
        assert owner.terminal() is not None
        assert owner.pid != server.pid
        # The program that is the other side of the terminal.
        server.end("SIGKILL")
        until(partial(has_ended, owner), why="it ends with its terminal")
        server.start()
        assert [one["id"] for one in server.sessions()] == [session["id"]]
        assert server.execute(kernel_id, "import os\nprint(x, os.write(1, b'x'))") == "5 1\n"
    finally:
        print(server.log)
        server.close()


def test_a_server_under_nohup(database: Database, new_server: NewServer) -> None:
    server = new_server(stored_in(database), prefix=["nohup"])
    server.start()
    session = server.create("a.ipynb")
    process = server.process_of(session["kernel"]["id"])
    os.kill(server.pid, signal.SIGHUP)
    assert server.kernels() == [session["kernel"]["id"]]
    server.restart()
    assert [one["id"] for one in server.sessions()] == [session["id"]]
    assert server.delete(session["id"]).status_code == 204
    until(lambda: has_ended(process), why="its kernel ends")


def test_a_server_whose_output_nobody_reads_any_more(
    database: Database, new_server: NewServer
) -> None:
    """A kernel goes on printing, into its log."""
    reader = ["bash", "-c", 'exec "$@" &> >(head -n 1)', "bash"]
    server = new_server(stored_in(database), prefix=reader)
    server.start()
    kernel_id = server.create("a.ipynb", kernel={"name": OTHER_KERNEL})["kernel"]["id"]
    until(lambda: server.log.count("\n") == 1, why="its reader has ended")
    printing = "import os\nfor stream in (1, 2): os.write(stream, b'said %d\\n' % stream)\nprint(6)"
    assert server.execute(kernel_id, printing) == "6\n"
    server.restart()
    assert server.execute(kernel_id, printing) == "6\n"
    log = (server.records / f"{kernel_id}.log").read_text()
    assert [log.count(f"said {stream}\n") for stream in (1, 2)] == [2, 2]


_PROVISIONER: Final = """
from types import SimpleNamespace
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

class OtherProvisioner(LocalProvisioner):
    pass

# As an entry point.
KernelProvisionerFactory.instance().provisioners["other"] = SimpleNamespace(
    name="other", value="", load=lambda: OtherProvisioner
)
"""


def test_a_kernel_of_another_provisioner(database: Database, new_server: NewServer) -> None:
    """It starts as in Jupyter Server, and ends with its server."""
    server = new_server(stored_in(database) + _PROVISIONER)
    metadata = {"kernel_provisioner": {"provisioner_name": "other"}}
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    server.add_kernel("elsewhere", argv, metadata=metadata)
    server.start()
    kept = server.create("kept.ipynb")
    for how in ("SIGTERM", "SIGKILL"):
        session = server.create("a.ipynb", kernel={"name": "elsewhere"})
        kernel_id = session["kernel"]["id"]
        assert server.execute(kernel_id, "import os\nprint('JPY_PARENT_PID' in os.environ)") == (
            "True\n"
        )
        names = {path.stem for path in server.records.iterdir()}
        assert names == {kept["kernel"]["id"]}
        (process,) = (
            one for one in server.all_kernel_processes() if kernel_id in " ".join(one.cmdline())
        )
        server.restart(how)
        until(partial(has_ended, process), why=f"it ends with its server at {how}")
        assert [one["id"] for one in server.sessions()] == [kept["id"]]
    assert server.own_frames() == []


def test_pending_kernels(database: Database, new_server: NewServer) -> None:
    """Their sessions are saved before they are launched, and are found with them."""
    pending = "c.AsyncMultiKernelManager.use_pending_kernels = True\n"
    server = new_server(f"{pending}{stored_in(database)}")
    server.start()
    sessions = [server.create("light.ipynb")]
    sessions += [server.create("real.ipynb", kernel={"name": OTHER_KERNEL})]
    light, real = (str(one["kernel"]["id"]) for one in sessions)
    assert server.execute(real, "x = 5\nx") == "5"
    for how in ("SIGKILL", "SIGTERM"):
        server.restart(how)
        assert [one["id"] for one in server.sessions()] == [one["id"] for one in sessions]
        assert server.execute(real, "x") == "5"
        assert server.api.post(f"/api/kernels/{light}/restart").status_code == 200
    # An orderly stop while one is on its way.
    late = server.create("late.ipynb", kernel={"name": OTHER_KERNEL})
    sessions.append(late)
    server.restart("SIGTERM")
    assert [one["id"] for one in server.sessions()] == [one["id"] for one in sessions]
    assert server.execute(late["kernel"]["id"], "print(7)") == "7\n"
    processes = server.all_kernel_processes()
    assert len(processes) == 3
    for session in sessions:
        assert server.delete(session["id"]).status_code == 204
    until(lambda: all(map(has_ended, processes)), why="they end")
    until(lambda: list(server.records.iterdir()) == [], why="their records go")
    assert server.own_frames() == []


def test_pending_kernels_that_are_to_end_with_their_server(
    database: Database, new_server: NewServer
) -> None:
    config = (
        "c.AsyncMultiKernelManager.use_pending_kernels = True\n"
        "c.PersistentKernelManager.detach_on_stop = False\n"
        "c.KernelManager.shutdown_wait_time = 1\n"
    )
    server = new_server("")
    server.configure(f"{light_config(stored_in(database))}{config}")
    # It is killed, and not at once.
    stubborn = "trap '' INT TERM; while [ -e \"$0\" ]; do sleep 2; done"
    server.add_kernel("stubborn", ["/bin/sh", "-c", stubborn, "{connection_file}"])
    server.start()
    server.create("a.ipynb", kernel={"name": "stubborn"})
    (process,) = until(server.all_kernel_processes, why="it starts")
    assert server.api.post("/api/shutdown").status_code == 200
    assert server.exit_code() == 0
    assert has_ended(process)


def test_kernels_on_sockets(database: Database, new_server: NewServer) -> None:
    """With ipc instead of tcp."""
    server = new_server(f"c.KernelManager.transport = 'ipc'\n{stored_in(database)}")
    server.start()
    session = server.create("a.ipynb", kernel={"name": OTHER_KERNEL})
    kernel_id = session["kernel"]["id"]
    server.execute(kernel_id, "x = 5")
    for how in ("SIGKILL", "SIGTERM"):
        server.restart(how)
        assert server.execute(kernel_id, "x") == "5"
    assert server.api.post(f"/api/kernels/{kernel_id}/restart").status_code == 200
    assert server.execute(kernel_id, "x = 6\nx") == "6"
    server.restart()
    assert server.execute(kernel_id, "x") == "6"
    # One that is killed leaves its sockets.
    process = server.process_of(kernel_id)
    server.end("SIGKILL")
    process.kill()
    until(lambda: has_ended(process), why="it has ended")
    assert len(list(server.runtime.glob(f"kernel-{kernel_id}*"))) > 1
    server.start()
    assert server.sessions() == []
    assert list(server.runtime.glob(f"kernel-{kernel_id}*")) == []
    assert server.own_frames() == []


def test_a_kernel_that_is_interrupted_by_a_message(
    database: Database, new_server: NewServer
) -> None:
    server = new_server(stored_in(database))
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    server.add_kernel("message", argv, language="python", interrupt_mode="message")
    server.start()
    kernel_id = server.create("a.ipynb", kernel={"name": "message"})["kernel"]["id"]
    server.execute(kernel_id, "x = 5")
    server.restart()
    with server.channels(kernel_id) as channels:
        request = channels.begin("import time\nprint('.')\ntime.sleep(600)")
        channels.wait_for_output(request)
        assert server.api.post(f"/api/kernels/{kernel_id}/interrupt").status_code == 204
        with pytest.raises(AssertionError, match="KeyboardInterrupt"):
            channels.finish(request)
    until(lambda: server.kernel_state(kernel_id) == "idle", why="it is idle")
    assert server.execute(kernel_id, "x") == "5"


def test_the_light_kernel_is_what_these_tests_take_it_for(
    database: Database, new_server: NewServer
) -> None:
    """It outlives its server, and ends when its connection file is gone."""
    server = new_server(stored_in(database))
    server.start()
    kernel_id = server.create("a.ipynb")["kernel"]["id"]
    process = server.process_of(kernel_id)
    assert json.loads((server.data_dir / "kernels" / LIGHT_KERNEL / "kernel.json").read_text())
    server.end("SIGKILL")
    assert not has_ended(process)
    Path(process.cmdline()[-1]).unlink()
    until(lambda: has_ended(process), why="it ends")


#: A kernel that has just been started is in the list until the test goes on.
_PAUSE: Final = """
import asyncio
from pathlib import Path
from jupyter_session_store.local import PersistentKernelManager

class Pausing(PersistentKernelManager):
    async def _add_kernel_when_ready(self, *arguments):
        await super()._add_kernel_when_ready(*arguments)
        while not Path({go!r}).exists():
            await asyncio.sleep(0.02)

c.ServerApp.kernel_manager_class = Pausing
"""


def test_the_list_while_a_kernel_is_started(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    """It is shown whole, and before anything can be known of the kernel's activity."""
    go = tmp_path / "go"
    server = new_server(stored_in(database) + _PAUSE.format(go=str(go)))
    server.start()
    with ThreadPoolExecutor(1) as threads:
        creating = threads.submit(server.create, "a.ipynb")
        try:
            (kernel_id,) = until(server.kernels, why="it is listed")
            assert server.kernel_state(kernel_id) == "starting"
        finally:
            go.touch()
        assert creating.result()["kernel"]["id"] == kernel_id
