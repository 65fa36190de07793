"""How a server ends when its terminal is closed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tornado.ioloop import IOLoop

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


@pytest.mark.system
@pytest.mark.only("sqlite", reason="the database has no part in it")
@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_log_line_ends_it(
    database: Database, new_server: NewServer, tmp_path: Path, order: signal.Signals
) -> None:
    """The log goes into a pipe that nobody reads for a while, so that a line waits half way."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    # Its own end of the pipe: that this one does not wait must not hold for the server's.
    filler = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    # Buffered, as it is where nobody says otherwise: an unbuffered file lets a second writer in.
    into_the_pipe = ["sh", "-c", f'unset PYTHONUNBUFFERED; exec "$0" "$@" 2>{pipe}']
    server = new_server(stored_in(database), prefix=into_the_pipe)
    try:
        server.start()
        server.create("a.ipynb")
        with suppress(BlockingIOError):
            while os.write(filler, b"\n"):
                pass
        # That it is missing makes a line of the log, after the answer.
        server.api.get("/api/sessions/missing")
        with pytest.raises(httpx.ReadTimeout):
            server.api.get("/api/sessions", timeout=1)
        psutil.Process(server.pid).send_signal(order)
        # The signal has come, and the line waits on.
        with pytest.raises(httpx.ReadTimeout):
            server.api.get("/api/sessions", timeout=1)
        os.set_blocking(reader, True)
        os.close(filler)
        rest = threading.Thread(target=lambda: all(iter(lambda: os.read(reader, 65536), b"")))
        rest.start()
        assert server.exit_code() == 0
        rest.join()
    finally:
        os.close(reader)
    assert rows_of(database) == []


class App:
    """A server whose end is counted."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.kernel_manager: Any = None
        self.io_loop = IOLoop(make_current=False)

    def _signal_stop(self, number: int, frame: object) -> None:
        self.ended.append(number)


@pytest.fixture
def app() -> Iterator[App]:
    app = App()
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, app._signal_stop)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield app
    if not app.io_loop.asyncio_loop.is_closed():
        app.io_loop.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def prepared(app: Any) -> Any:
    _end_in_order(app)
    return signal.getsignal(signal.SIGHUP)


def test_a_hangup_is_taken_for_a_termination(app: App) -> None:
    end, termination = prepared(app), signal.getsignal(signal.SIGTERM)
    assert end == termination
    end(signal.SIGHUP, None)
    assert app.ended == []
    app.io_loop.add_callback(app.io_loop.stop)
    app.io_loop.start()
    assert app.ended == [signal.SIGHUP]


def test_a_signal_after_the_end_is_no_error(app: App) -> None:
    end = prepared(app)
    app.io_loop.close()
    end(signal.SIGHUP, None)
    assert app.ended == []


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
