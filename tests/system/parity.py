"""The stock manager and this one side by side: the same requests, and their answers compared."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import httpx
import psutil
from hypothesis import strategies as st
from hypothesis.stateful import MultipleResults, RuleBasedStateMachine, invariant, multiple
from jupyter_server.services.sessions.sessionmanager import SessionManager

from .gateway import Gateway
from .process import OTHER_KERNEL, JupyterProcess
from .server import JupyterServer
from .waiting import until

T = TypeVar("T")
#: What a rule adds to its bundle: an id's label, or nothing.
New = str | MultipleResults[str]

#: A kernel specification beside ``OTHER_KERNEL``; it is the default.
LIGHT_KERNEL: Final = "light"

#: In earlier releases a kernel that is started for a session gets an id of the server's own.
KERNEL_IDS_ARE_KEPT: Final = (
    "kernel_id" in signature(SessionManager.start_kernel_for_session).parameters
)

SESSIONS: Final = "/api/sessions"
KERNELS: Final = "/api/kernels"
#: The id of nothing that ever was.
NOWHERE: Final = "00000000-0000-0000-0000-000000000000"

_UUID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: Why a session is not found is said in words of one's own.
_REASON: Final = re.compile("^Session not found: .*", re.DOTALL)

#: No two runs agree on when and how a kernel was last heard of.
_PASSING: Final = ("last_activity", "execution_state", "connections")

#: A kernel's process that nobody talks to: it starts in a millisecond, ends at a signal, and ends
#: by itself if the server is killed. The word lets :class:`.JupyterProcess` find it.
_LIGHT_ARGV: Final = (
    "/bin/sh",
    "-c",
    'while kill -0 "$PPID" 2>/dev/null; do sleep 5; done',
    "ipykernel_launcher",
    "{connection_file}",
)

# The kernel does not hear the request to end, and SIGINT has ended it before: there is nothing to
# wait for. Who restarts a killed kernel, and when, is the kernel manager's affair, and a timer's.
_LIGHT_CONFIG: Final = f"""
c.KernelManager.autorestart = False
c.KernelManager.shutdown_wait_time = 0.02
c.MappingKernelManager.default_kernel_name = {LIGHT_KERNEL!r}
"""


# What both accept: neither NUL nor surrogates, and no way out of the root directory.
TEXTS: Final = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30
).filter(lambda text: ".." not in text)
PATHS: Final = TEXTS | st.sampled_from(
    [
        "a.ipynb",
        "A.ipynb",
        "a.ipynb ",
        " a b/c.ipynb",
        "\u00e1.ipynb",
        "a\u0301.ipynb",
        "\U0001f680/\u65e5\u672c.ipynb",
        'it\'s "so"; -- \\ %s 100%25 ?.ipynb',
        "line\nbreak\ttab.ipynb",
    ]
)
TYPES: Final = st.sampled_from(["notebook", "console", "file"]) | TEXTS
KERNEL_NAMES: Final = st.sampled_from([LIGHT_KERNEL, OTHER_KERNEL])
NEW_KERNELS: Final[st.SearchStrategy[dict[str, Any]]] = st.sampled_from(
    [{}, {"id": None, "name": None}, {"name": LIGHT_KERNEL}, {"name": OTHER_KERNEL}]
)
CHANGES: Final = st.fixed_dictionaries(
    {}, optional={"path": PATHS, "name": st.none() | TEXTS, "type": st.none() | TYPES}
)
#: Bodies of a POST that both refuse.
REFUSED: Final = st.sampled_from([None, b"{", {}, {"path": "a.ipynb"}, {"type": "notebook"}])
#: Requests for a session that is not there.
WITHOUT_A_SESSION: Final = st.sampled_from(
    [
        ("GET", None),
        ("DELETE", None),
        ("PATCH", None),
        ("PATCH", {"path": "moved.ipynb", "name": "moved"}),
        ("PATCH", {"kernel": {"name": OTHER_KERNEL}}),
        ("PATCH", {"kernel": {"id": NOWHERE}}),
    ]
)

#: What this manager refuses; and whether the stock one accepts it in a POST, and in a PATCH.
BAD_INPUT: Final[list[tuple[Any, bool, bool]]] = [
    ({"path": "p" * 4097}, True, True),
    ({"name": "n" * 1025}, True, True),
    ({"type": "t" * 256}, True, True),
    ({"path": "a\0b"}, False, True),
    ({"name": "a\0b"}, False, True),
    ({"type": "a\0b"}, True, True),
    ({"path": "\ud800"}, False, False),
    ({"type": "\ud800"}, False, False),
    ({"path": None}, False, True),
    ({"path": 1}, False, True),
    ({"type": ["notebook"]}, False, False),
    ({"name": True}, False, False),
    ({"notebook": "a.ipynb"}, True, True),
    ({"notebook": {"path": 3}}, False, True),
    ({"notebook": {"path": None}}, False, True),
    ({"kernel": 7}, False, False),
    ({"kernel": "python3"}, False, False),
    ({"kernel": {"name": 7}}, False, False),
    ({"kernel": {"name": "a\0b"}}, False, False),
    ({"kernel": {"id": {}}}, False, False),
    (b'{"path": "\xff"}', False, False),
    (b"[]", False, True),
    (b'"a.ipynb"', False, True),
    (b"3", False, False),
]


class Answer(NamedTuple):
    """What a server answered, with a label in the place of each id."""

    status: int
    content_type: str | None
    location: str | None
    body: Any


def stock_config(file: Path) -> str:
    """Return what makes a server one with the stock manager, its sessions in a file."""
    return (
        f"c.ServerApp.session_manager_class = '{SessionManager.__module__}.SessionManager'\n"
        f"c.SessionManager.database_filepath = {str(file)!r}\n"
    )


class Labels:
    """The ids of one server, each with a label: its number in the order of appearance.

    Servers that answer alike name their ids in the same order.
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._ids: dict[str, str] = {}

    def id_of(self, label: str) -> str:
        """Return the id that a label stands for; what is no label stands for itself."""
        return self._ids.get(label, label)

    def put_into(self, text: str) -> str:
        """Return a text with labels instead of ids."""
        return _UUID.sub(lambda match: self._label_of(match[0]), text)

    def _label_of(self, found: str) -> str:
        if found not in self._labels:
            label = f"<id {len(self._labels)}>"
            self._labels[found] = label
            self._ids[label] = found
        return self._labels[found]


class Pair:
    """A server with the stock manager and one with this package's, asked the same in lockstep.

    Parameters
    ----------
    stock, ours : JupyterServer
        Neither started yet.
    """

    def __init__(self, stock: JupyterServer, ours: JupyterServer) -> None:
        self.stock = stock
        self.ours = ours
        self._threads = ThreadPoolExecutor(2)
        self._labels = (Labels(), Labels())
        #: Why there is nothing left to ask.
        self._broken: BaseException | None = None
        for server in (stock, ours):
            for name in (LIGHT_KERNEL, OTHER_KERNEL):
                add_light_kernel(server, name)
        self.on_both(JupyterServer.start)

    def close(self) -> None:
        """End the threads; the servers are their maker's."""
        self._threads.shutdown()

    def on_both(self, act: Callable[[JupyterServer], T]) -> tuple[T, T]:
        """Do something with both servers at once, and return what came of it: stock's first."""
        if self._broken is not None:
            # Hypothesis tries again what has failed, and would show that nobody answers.
            raise self._broken
        stock, ours = self._threads.map(act, (self.stock, self.ours))
        return stock, ours

    def restart(self) -> None:
        """Stop both in order, and start them again."""

        def again(server: JupyterServer) -> None:
            server.stop()
            server.start()

        try:
            self.on_both(again)
        except BaseException as error:
            self._broken = error
            raise

    def clean(self) -> None:
        """End all kernels, and with them all sessions; forget all labels."""

        def without_kernels(server: JupyterServer) -> None:
            for kernel_id in server.kernels():
                assert server.api.delete(f"/api/kernels/{kernel_id}").status_code == 204
            assert server.sessions() == []
            assert server.kernels() == []

        self.on_both(without_kernels)
        self._labels = (Labels(), Labels())

    def ask(self, method: str, where: str, label: str | None = None, body: Any = None) -> Answer:
        """Ask both the same, and return their one answer; fail if the answers differ.

        Parameters
        ----------
        method, where : str
        label : str, optional
            Of a session or a kernel, to go on the address with.
        body : optional
            JSON, in which a kernel may be given by its label; bytes are sent as they are.
        """
        stock, ours = self.ask_each(method, where, label, body)
        request = f"{method} {where} {label or ''} {body!r}"
        assert ours == stock, f"{request}\nstock: {stock}\nours:  {ours}"
        return stock

    def ask_each(
        self, method: str, where: str, label: str | None = None, body: Any = None
    ) -> tuple[Answer, Answer]:
        """Ask both the same, and return the answers: stock's first."""

        def send(server: JupyterServer) -> httpx.Response:
            labels = self._labels[server is self.ours]
            address = where if label is None else f"{where}/{labels.id_of(label)}"
            return server.api.request(method, address, content=content_of(body, labels))

        stock, ours = self.on_both(send)
        return _answer(stock, self._labels[0]), _answer(ours, self._labels[1])

    def create(self, path: str, **fields: Any) -> Any:
        """Create a session, and return its model."""
        answer = self.ask("POST", SESSIONS, None, {"path": path, "type": "notebook", **fields})
        assert answer.status == 201
        return answer.body

    def shown(self) -> list[tuple[list[str], list[str]]]:
        """Return the paths of the sessions, and the kernels, that each shows: stock's first."""
        sessions, kernels = self.ask_each("GET", SESSIONS), self.ask_each("GET", KERNELS)
        return [
            ([model["path"] for model in listed.body], [kernel["id"] for kernel in running.body])
            for listed, running in zip(sessions, kernels, strict=True)
        ]

    def kill_process(self, kernel: str) -> None:
        """Kill the process of a kernel, where it still has one, behind the servers' backs."""

        def kill(server: JupyterServer) -> bool:
            wanted = self._labels[server is self.ours].id_of(kernel)
            # One that has just been started has none for a moment.
            until(partial(_have_commands, server.pid), why="each has its command")
            found = [
                process
                for process in server.kernel_processes()
                if wanted in " ".join(process.cmdline())
            ]
            for process in found:
                os.killpg(process.pid, signal.SIGKILL)
                until(partial(is_dead, process), why="the kernel's process ends")
            return bool(found)

        stock, ours = self.on_both(kill)
        assert stock == ours, f"of {kernel} the processes: stock {stock}, ours {ours}"


class Asker(RuleBasedStateMachine):
    """What a machine that asks a pair knows of the two, which is the same of both.

    Parameters
    ----------
    pair : Pair
    steps : Counter
        Counts the steps by their rule.
    """

    def __init__(self, pair: Pair, steps: Counter[str]) -> None:
        super().__init__()
        self._pair = pair
        self._steps = steps
        self._paths: dict[str, str] = {}
        self._listed: dict[str, dict[str, Any]] = {}
        self._running: list[str] = []
        self._restarted = False

    def teardown(self) -> None:
        self._pair.clean()

    def _ask(self, step: str, *request: Any) -> Answer:
        self._steps[step] += 1
        return self._pair.ask(*request)

    def _post(self, step: str, **body: Any) -> New:
        """Ask for a session; return it if it is new."""
        answer = self._ask(step, "POST", SESSIONS, None, body)
        assert answer.status == 201, answer
        session = str(answer.body["id"])
        new = session not in self._paths
        self._paths[session] = answer.body["path"]
        return session if new else multiple()

    def _kernel_of(self, session: str) -> str | None:
        return self._listed[session]["kernel"]["id"] if session in self._listed else None

    def _shares(self, session: str) -> bool:
        kernels = [self._kernel_of(other) for other in self._listed]
        return kernels.count(self._kernel_of(session)) > 1

    def _state_of(self, kernel: str) -> str:
        return "live" if kernel in self._running else "ended"

    @invariant()
    def they_list_the_same(self) -> None:
        models = self._pair.ask("GET", SESSIONS).body
        self._listed = {model["id"]: model for model in models}
        self._paths |= {model["id"]: model["path"] for model in models}
        self._running = [kernel["id"] for kernel in self._pair.ask("GET", KERNELS).body]


def _have_commands(pid: int) -> bool:
    return all(is_dead(one) or one.cmdline() for one in psutil.Process(pid).children())


def is_dead(process: psutil.Process) -> bool:
    """Return whether a process has ended, whoever is to be told of it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def add_light_kernel(server: JupyterProcess, name: str) -> None:
    """Give a server a kernel specification that is light."""
    folder = server.data_dir / "kernels" / name
    folder.mkdir(parents=True, exist_ok=True)
    specification = {"argv": list(_LIGHT_ARGV), "display_name": name, "language": "none"}
    (folder / "kernel.json").write_text(json.dumps(specification))


def light_config(config: str) -> str:
    """Return a configuration with what light kernels need."""
    return f"{config}\n{_LIGHT_CONFIG}"


@contextmanager
def light_gateway() -> Iterator[Gateway]:
    """Yield a running gateway whose kernels are light; at the end a failure shows its log."""
    gateway = Gateway(light_config(""))
    add_light_kernel(gateway, LIGHT_KERNEL)
    gateway.start()
    try:
        yield gateway
    finally:
        print(gateway.log[-5000:])
        gateway.close()


def content_of(body: Any, labels: Labels | None = None) -> bytes | None:
    """Return what is sent: JSON, with the id of a kernel for its label."""
    labels = labels or Labels()
    if body is None or isinstance(body, bytes):
        return body
    kernel = body.get("kernel") if isinstance(body, dict) else None
    if isinstance(kernel, dict) and isinstance(kernel.get("id"), str):
        body = {**body, "kernel": {**kernel, "id": labels.id_of(kernel["id"])}}
    return json.dumps(body).encode()


def _answer(response: httpx.Response, labels: Labels) -> Answer:
    body = json.loads(labels.put_into(response.text)) if response.content else None
    location = response.headers.get("Location")
    return Answer(
        response.status_code,
        response.headers.get("Content-Type"),
        location and labels.put_into(location),
        _without_reason(_without_what_passes(body)),
    )


def _without_what_passes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_what_passes(one) for one in value]
    if isinstance(value, dict):
        return {k: _without_what_passes(v) for k, v in value.items() if k not in _PASSING}
    return value


def _without_reason(body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return {**body, "message": _REASON.sub("Session not found", body["message"])}
    return body
