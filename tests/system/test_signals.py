"""How a server ends when its terminal is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from jupyter_session_store.web.extension import _end_in_order

from ..databases import Database
from .conftest import stored_in
from .process import PATIENCE
from .rows import rows_of
from .server import JupyterServer

NewServer = Callable[..., JupyterServer]


@pytest.mark.system
def test_a_hangup_ends_it_in_order(server: JupyterServer, database: Database) -> None:
    session = server.create("a.ipynb")
    assert [row.session_id for row in rows_of(database)] == [session["id"]]
    kernels = server.kernel_processes()
    psutil.Process(server.pid).send_signal(signal.SIGHUP)
    assert server.exit_code() == 0, server.log
    assert rows_of(database) == []
    assert database.rows("SELECT * FROM jupyter_servers") == []
    _, alive = psutil.wait_procs(kernels, timeout=PATIENCE)
    assert alive == []


@pytest.mark.system
@pytest.mark.only("sqlite", reason="the database has no part in it")
def test_under_nohup_it_runs_on(database: Database, new_server: NewServer) -> None:
    server = new_server(stored_in(database), prefix=["nohup"])
    server.start()
    session = server.create("a.ipynb")
    psutil.Process(server.pid).send_signal(signal.SIGHUP)
    assert [model["id"] for model in server.sessions()] == [session["id"]]
    server.stop()


class App:
    """A server whose end is counted."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.kernel_manager: Any = None

    def _signal_stop(self, number: int, frame: object) -> None:
        self.ended.append(number)


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, app._signal_stop)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield app
    for number, handler in before.items():
        signal.signal(number, handler)


def prepared(app: Any) -> Any:
    _end_in_order(app)
    return signal.getsignal(signal.SIGHUP)


def test_a_hangup_is_taken_for_a_termination(app: App) -> None:
    end, termination = prepared(app), signal.getsignal(signal.SIGTERM)
    assert end == termination
    end(signal.SIGHUP, None)
    assert app.ended == [signal.SIGHUP]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_hangup_that_is_ignored_or_handled_stays_so(app: App, handler: Any) -> None:
    signal.signal(signal.SIGHUP, handler)
    assert prepared(app) == handler
    assert signal.getsignal(signal.SIGTERM) != app._signal_stop


def test_a_server_in_a_thread_leaves_all_signals_alone(app: App) -> None:
    thread = threading.Thread(target=_end_in_order, args=(app,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == app._signal_stop
