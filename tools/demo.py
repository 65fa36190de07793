"""Show a notebook that outlives its server.

    make demo               show it, and end everything
    make demo ARGS=--stay   show it, and leave everything running until Ctrl-C

A kernel gateway, two replicas of a Jupyter server with one session store, and
HAProxy before them: all on 127.0.0.1, and all they write in a temporary folder.
The exit status is 0 only if a variable that was set through the one replica was
read through the other, after the first was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import websocket
from servers import SBIN, install

#: Seconds: far above what anything here takes.
PATIENCE = 60.0
TOKEN = uuid4().hex
NOTEBOOK = "demo.ipynb"

GATEWAY_CONFIG = """
c = get_config()
c.KernelGatewayApp.auth_token = {token!r}
c.JupyterWebsocketPersonality.list_kernels = True
"""

# The same for both: their ports are on their command lines.
REPLICA_CONFIG = """
c = get_config()
c.ServerApp.session_manager_class = "jupyter_session_store.PersistentSessionManager"
c.ServerApp.kernel_manager_class = "jupyter_session_store.gateway.PersistentGatewayKernelManager"
c.SessionManager.database_filepath = "sqlite:///{folder}/sessions.db"
c.GatewayClient.url = "http://127.0.0.1:{gateway}"
c.GatewayClient.auth_token = {token!r}
c.ServerApp.root_dir = "{folder}/notebooks"
c.IdentityProvider.token = {token!r}
c.ServerApp.cookie_secret = b"{secret}"
c.ServerApp.terminals_enabled = False
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.port_retries = 0
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
"""

BALANCER_CONFIG = """
defaults
    mode http
    timeout connect 2s
    timeout client 120s
    timeout server 120s
    timeout tunnel 1h
    option redispatch 1
    retries 3
frontend front
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance roundrobin
    option httpchk GET /api
    default-server check inter 250ms fall 1 rise 1
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""


class Failure(Exception):
    """What the user is told, in place of a traceback."""


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def haproxy() -> str:
    """Return the program, installed first where that is possible."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    if shutil.which("haproxy", path=path) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install(["haproxy"])
    found = shutil.which("haproxy", path=path)
    if found is None:
        raise Failure(
            "HAProxy is not installed. On Debian and Ubuntu: sudo apt install haproxy. On macOS: "
            "brew install haproxy. Then run this again."
        )
    return found


def free_port() -> int:
    """Return a port on which nothing listens, outside the range of outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request (a POST if there is a body) and return the JSON of the answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
    )
    # Not through a proxy that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE) as response:
        return json.load(response)


class Program:
    """A program that runs until it is ended, with folders of its own.

    Parameters
    ----------
    name : str
    folder : Path
        Of all programs.
    port : int
        Where it answers.
    command : list of str
    """

    def __init__(self, name: str, folder: Path, port: int, command: list[str]) -> None:
        self.name = name
        self.port = port
        self._command = command
        self._log = folder / f"{name}.log"
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")} | {
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / name / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / name / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        self.process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this program alone, which ends the others
            )

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError):
                ask(self.port, "/api")
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{self.name} does not answer. It says:\n{self.log[-3000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it with SIGKILL: it has no chance to do anything more."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start it again, on its port."""
        self.process = self._launch()
        self.wait()

    def end(self) -> None:
        """End it in order, and its kernels with it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


def evaluate(port: int, kernel_id: str, code: str, expression: str) -> str:
    """Run code in a kernel as a front end does, and return an expression's value after it."""
    address = f"ws://127.0.0.1:{port}/api/kernels/{kernel_id}/channels?token={TOKEN}"
    channels = websocket.create_connection(address, timeout=PATIENCE, http_no_proxy=["*"])
    request = uuid4().hex
    header = {"msg_id": request, "msg_type": "execute_request", "session": uuid4().hex}
    content = {"code": code, "user_expressions": {"value": expression}}
    message = {
        "channel": "shell",
        "header": {**header, "username": "", "version": "5.4"},
        "parent_header": {},
        "metadata": {},
        "content": content,
    }
    try:
        channels.send(json.dumps(message))
        while True:
            answer = json.loads(channels.recv())
            if (answer["msg_type"], answer["parent_header"].get("msg_id")) == (
                "execute_reply",
                request,
            ):
                break
    finally:
        channels.close()
    value = answer["content"].get("user_expressions", {}).get("value", {})
    if value.get("status") != "ok":
        raise Failure(f"The kernel answered {answer['content']}")
    return str(value["data"]["text/plain"])


def start(folder: Path, stack: ExitStack, balancer: str) -> tuple[list[Program], Program]:
    """Start all programs and return the replicas and the balancer."""
    for name in ("config", "notebooks"):
        (folder / name).mkdir()
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks" / NOTEBOOK).write_text(json.dumps(empty))
    config = folder / "config"

    def run(name: str, port: int, *command: str) -> Program:
        program = Program(name, folder, port, list(command))
        stack.callback(program.end)
        return program

    def module(name: str, what: str, port: int) -> Program:
        options = ("--ip=127.0.0.1", f"--port={port}")
        return run(name, port, sys.executable, "-m", what, *options)

    port = free_port()
    (config / "jupyter_kernel_gateway_config.py").write_text(GATEWAY_CONFIG.format(token=TOKEN))
    say(f"Starting a kernel gateway on port {port}.")
    gateway = module("gateway", "kernel_gateway", port)
    (config / "jupyter_server_config.py").write_text(
        REPLICA_CONFIG.format(folder=folder, gateway=port, token=TOKEN, secret=uuid4().hex)
    )
    ports = free_port(), free_port()
    say(
        f"Starting two Jupyter servers: A on port {ports[0]}, B on port {ports[1]}. Their "
        "sessions are in one SQLite file."
    )
    replicas = [module(name, "jupyter_server", p) for name, p in zip("AB", ports, strict=True)]
    for program in (gateway, *replicas):
        program.wait()
    port = free_port()
    say(f"Starting HAProxy before them, on port {port}.")
    haproxy_config = config / "haproxy.cfg"
    haproxy_config.write_text(BALANCER_CONFIG.format(port=port, a=ports[0], b=ports[1]))
    front = run("haproxy", port, balancer, "-f", str(haproxy_config))
    front.wait()
    return replicas, front


def show(replicas: list[Program], front: Program) -> Program:
    """Show a notebook that goes on, and return the replica that was killed."""
    body = {"path": NOTEBOOK, "name": NOTEBOOK, "type": "notebook"}
    session = ask(front.port, "/api/sessions", {**body, "kernel": {"name": "python3"}})
    kernel_id = session["kernel"]["id"]
    say(f"\nA session for {NOTEBOOK} was created through HAProxy. Its kernel is {kernel_id}.")

    def connected() -> list[Program]:
        return [one for one in replicas if f"Connecting to kernel {kernel_id}" in one.log]

    value = evaluate(front.port, kernel_id, "x = 41", "x")
    [first] = connected()
    say(f"x = 41 was run in it, through server {first.name} (process {first.process.pid}).")
    if value != "41":
        raise Failure(f"Expected x to be 41, and it is {value}.")
    first.kill()
    say(f"Server {first.name} was killed with SIGKILL (kill -9).")
    sessions = ask(front.port, "/api/sessions")
    if [(one["id"], one["kernel"]["id"]) for one in sessions] != [(session["id"], kernel_id)]:
        raise Failure(f"Expected the session and its kernel, and the list is {sessions}.")
    say("The list of sessions, through HAProxy again, still has the notebook, on the same kernel.")
    value = evaluate(front.port, kernel_id, "", "x + 1")
    [second] = (one for one in connected() if one is not first)
    say(f"x + 1 was run in it, through server {second.name}: {value}.")
    if value != "42":
        raise Failure(f"Expected x + 1 to be 42, and it is {value}.")
    return first


def stay(replicas: list[Program], front: Program, killed: Program) -> None:
    """Leave everything to the user, until Ctrl-C."""
    killed.start_again()
    say(f"\nServer {killed.name} was started again. Open the notebook, whose x is still 41:")
    say(f"\n    http://127.0.0.1:{front.port}/lab/tree/{NOTEBOOK}?token={TOKEN}\n")
    say("and kill a server, but leave one running:\n")
    for one in replicas:
        say(f"    kill -9 {one.process.pid}    # {one.name}")
    say("\nCtrl-C ends everything.")
    while True:
        time.sleep(3600)


def main() -> int:
    """Show it, and end all that was started, whatever happens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stay", action="store_true", help="leave everything running until Ctrl-C")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shown = False
    try:
        balancer = haproxy()
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jss-demo-"))
            stack.callback(say, "Everything that was started has ended.")
            replicas, front = start(Path(folder), stack, balancer)
            killed = show(replicas, front)
            shown = True
            say("\nThe notebook has outlived its server.")
            if arguments.stay:
                stay(replicas, front, killed)
    except KeyboardInterrupt:
        pass
    except (Failure, OSError, websocket.WebSocketException) as error:
        print(f"\nThis failed: {error}", file=sys.stderr)
    return 0 if shown else 1


if __name__ == "__main__":
    raise SystemExit(main())
