"""Show a notebook that outlives its server.

    make demo               show it, and end everything
    make demo ARGS=--stay   show it, and leave what the second part has started until Ctrl-C

First on one machine, as on a laptop: a Jupyter server whose kernels outlive it is
killed and started again. Then with replicas: a kernel gateway, two replicas of a
Jupyter server with one session store, and HAProxy before them. All is on 127.0.0.1,
and all they write in a temporary folder. The exit status is 0 only if a variable
that was set before a server was killed was read after it, in both.
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

# Of each server: their ports are on their command lines.
SERVER_CONFIG = """
c = get_config()
c.ServerApp.session_manager_class = "jupyter_session_store.PersistentSessionManager"
c.SessionManager.database_filepath = "sqlite:///{folder}/sessions.db"
c.ServerApp.root_dir = "{folder}/notebooks"
c.IdentityProvider.token = {token!r}
c.ServerApp.cookie_secret = b"{secret}"
c.ServerApp.terminals_enabled = False
c.ServerApp.allow_root = True
c.ServerApp.open_browser = False
c.ServerApp.port_retries = 0
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
"""

LOCAL_CONFIG = """
c.ServerApp.kernel_manager_class = "jupyter_session_store.local.PersistentKernelManager"
"""

REPLICA_CONFIG = """
c.ServerApp.kernel_manager_class = "jupyter_session_store.gateway.PersistentGatewayKernelManager"
c.GatewayClient.url = "http://127.0.0.1:{gateway}"
c.GatewayClient.auth_token = {token!r}
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

    def run(self, *command: str) -> str:
        """Run a command of Jupyter's with the folders of this program; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "jupyter", *command],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise Failure(f"jupyter {' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def end(self) -> None:
        """End it in order; a gateway's kernels end with it."""
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


def prepare(folder: Path, more: str) -> Path:
    """Make the folders of some servers, and return that of their configuration."""
    for name in ("config", "notebooks"):
        (folder / name).mkdir(parents=True)
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks" / NOTEBOOK).write_text(json.dumps(empty))
    text = SERVER_CONFIG.format(folder=folder, token=TOKEN, secret=uuid4().hex) + more
    (folder / "config" / "jupyter_server_config.py").write_text(text)
    return folder / "config"


def new_session(port: int) -> tuple[str, str]:
    """Create a session for the notebook, and return its id and its kernel's."""
    body = {"path": NOTEBOOK, "name": NOTEBOOK, "type": "notebook"}
    session = ask(port, "/api/sessions", {**body, "kernel": {"name": "python3"}})
    return session["id"], session["kernel"]["id"]


def check_sessions(port: int, session: tuple[str, str]) -> None:
    """Check that there is one session, on its kernel."""
    sessions = ask(port, "/api/sessions")
    if [(one["id"], one["kernel"]["id"]) for one in sessions] != [session]:
        raise Failure(f"Expected the session and its kernel, and the list is {sessions}.")


def check_value(port: int, kernel_id: str, code: str, expression: str, expected: str) -> None:
    """Run code in a kernel, and check what an expression is after it."""
    value = evaluate(port, kernel_id, code, expression)
    if value != expected:
        raise Failure(f"Expected {expression} to be {expected}, and it is {value}.")


def show_alone(folder: Path) -> None:
    """Show a server that is killed, and started again, on a machine of its own."""
    prepare(folder, LOCAL_CONFIG)
    port = free_port()
    options = ("--ip=127.0.0.1", f"--port={port}")
    say(f"Starting a Jupyter server on port {port}, whose kernels are on this machine.")
    command = [sys.executable, "-m", "jupyter_server", *options]
    with ExitStack() as stack:
        server = Program("server", folder, port, command)
        # Its kernel would go on for a week.
        kernels = ("session-store", "kernels")
        stack.callback(server.run, *kernels, "--stop", "--detached", "--yes")
        stack.callback(server.end)
        server.wait()
        session = new_session(port)
        _, kernel_id = session
        say(f"\nA session for {NOTEBOOK} was created. Its kernel is {kernel_id}.")
        check_value(port, kernel_id, "x = 41", "x", "41")
        say("x = 41 was run in it.")
        server.kill()
        say(f"The server (process {server.process.pid}) was killed with SIGKILL (kill -9).")
        say("No server runs. `jupyter session-store kernels` lists what goes on:\n")
        say(server.run(*kernels))
        server.start_again()
        say("\nThe server was started again.")
        check_sessions(port, session)
        say("Its list of sessions has the notebook, on the same kernel.")
        check_value(port, kernel_id, "", "x + 1", "42")
        say("x + 1 was run in it: 42.")


def start(folder: Path, stack: ExitStack, balancer: str) -> tuple[list[Program], Program]:
    """Start all programs and return the replicas and the balancer."""
    gateway_port = free_port()
    config = prepare(folder, REPLICA_CONFIG.format(gateway=gateway_port, token=TOKEN))

    def run(name: str, port: int, *command: str) -> Program:
        program = Program(name, folder, port, list(command))
        stack.callback(program.end)
        return program

    def module(name: str, what: str, port: int) -> Program:
        options = ("--ip=127.0.0.1", f"--port={port}")
        return run(name, port, sys.executable, "-m", what, *options)

    (config / "jupyter_kernel_gateway_config.py").write_text(GATEWAY_CONFIG.format(token=TOKEN))
    say(f"Starting a kernel gateway on port {gateway_port}.")
    gateway = module("gateway", "kernel_gateway", gateway_port)
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
    session = new_session(front.port)
    _, kernel_id = session
    say(f"\nA session for {NOTEBOOK} was created through HAProxy. Its kernel is {kernel_id}.")

    def connected() -> list[Program]:
        return [one for one in replicas if f"Connecting to kernel {kernel_id}" in one.log]

    check_value(front.port, kernel_id, "x = 41", "x", "41")
    [first] = connected()
    say(f"x = 41 was run in it, through server {first.name} (process {first.process.pid}).")
    first.kill()
    say(f"Server {first.name} was killed with SIGKILL (kill -9).")
    check_sessions(front.port, session)
    say("The list of sessions, through HAProxy again, still has the notebook, on the same kernel.")
    check_value(front.port, kernel_id, "", "x + 1", "42")
    [second] = (one for one in connected() if one is not first)
    say(f"x + 1 was run in it, through server {second.name}: 42.")
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
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jss-demo-"))
            stack.callback(say, "Everything that was started has ended.")
            show_alone(Path(folder) / "alone")
            say("\nThe notebook has outlived its server. Now with kernels on a gateway.\n")
            replicas, front = start(Path(folder) / "replicas", stack, haproxy())
            killed = show(replicas, front)
            shown = True
            say("\nThe notebook has outlived its server here, too.")
            if arguments.stay:
                stay(replicas, front, killed)
    except KeyboardInterrupt:
        pass
    except (Failure, OSError, websocket.WebSocketException) as error:
        print(f"\nThis failed: {error}", file=sys.stderr)
    return 0 if shown else 1


if __name__ == "__main__":
    raise SystemExit(main())
