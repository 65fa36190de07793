"""How a server ends when its terminal is closed."""

from __future__ import annotations

import logging
import os
import select
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
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
from .server import PATIENT, JupyterServer

NewServer = Callable[..., JupyterServer]

#: A renewal that fails is said in the log.
NO_RENEWAL = "c.PersistentSessionManager.lease_seconds = 3600"


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
def test_a_signal_in_the_middle_of_a_log_line_ends_it(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    """The log goes into a pipe that nobody reads for a while, so that a line waits half way."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    with ExitStack() as stack:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, reader)
        # Its own end of the pipe: that this one does not wait must not hold for the server's.
        filler = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        stack.callback(os.close, filler)
        # Buffered, as it usually is: an unbuffered file lets a second writer in.
        into = f'unset PYTHONUNBUFFERED; exec "$0" "$@" 2>{shlex.quote(str(pipe))}'
        config = f"{stored_in(database)}\n{PATIENT}\n{NO_RENEWAL}"
        server = new_server(config, prefix=["sh", "-c", into])
        server.start()
        server.create("a.ipynb")
        with suppress(BlockingIOError):
            while os.write(filler, b"\n"):
                pass
        # No handler has this path: the one line of the log comes after the answer.
        server.api.get("/api/no-such-page")
        with pytest.raises(httpx.TimeoutException):
            server.api.get("/api/sessions", timeout=1)
        process = psutil.Process(server.pid)
        process.send_signal(signal.SIGTERM)
        # The signal has come, and the line waits on.
        with pytest.raises(httpx.TimeoutException):
            server.api.get("/api/sessions", timeout=1)
        log = b""
        deadline = time.monotonic() + PATIENCE
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, log.decode()
            if select.select([reader], [], [], 0.1)[0]:
                log += os.read(reader, 65536)
        assert server.exit_code() == 0, log.decode()
    assert rows_of(database) == []


class App:
    """A server whose end is counted."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.kernel_manager: Any = None
        self.io_loop = IOLoop(make_current=False)
        self.log = logging.getLogger("app")
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self.io_loop.add_callback(self.io_loop.stop)

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


def test_an_end_that_fails_ends_it_all_the_same(app: App, caplog: pytest.LogCaptureFixture) -> None:
    def fail(number: int, frame: object) -> None:
        raise ValueError(number)

    app._signal_stop = fail  # type: ignore[method-assign]
    signal.signal(signal.SIGTERM, fail)
    end = prepared(app)
    end(signal.SIGHUP, None)
    app.io_loop.start()
    assert app.stopped
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


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
