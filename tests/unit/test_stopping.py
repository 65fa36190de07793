"""Ending a kernel by hand, where the command's own tests do not come."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from jupyter_session_store.kernels.outliving import stopping
from jupyter_session_store.kernels.outliving.folder import KernelFolder
from jupyter_session_store.kernels.outliving.kernel_lock import KernelLock
from jupyter_session_store.kernels.outliving.kernel_process import ProcessMark
from jupyter_session_store.kernels.outliving.kernel_record import KernelRecord
from jupyter_session_store.kernels.outliving.stopping import (
    OwnerAPI,
    OwnerUnreachable,
    StopResult,
    stop_detached,
)

from ..databases.certificates import Certificate

TOKEN = "s3cr3t"


@pytest.fixture
def process() -> Iterator[ProcessMark]:
    """A process that stands for a kernel."""
    running = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    mark = ProcessMark.of(running.pid)
    assert mark is not None
    yield mark
    running.kill()
    running.wait()


@pytest.fixture
def folder(tmp_path: Path) -> KernelFolder:
    """The folder of the records."""
    folder = KernelFolder(tmp_path / "kernels" / "here")
    folder.prepare()
    return folder


def record_of(owner: ProcessMark, process: ProcessMark) -> KernelRecord:
    """Return the record of a kernel."""
    return KernelRecord(
        kernel_id="kernel",
        kernel_name="python3",
        namespace="space",
        place="8888:/",
        server_id="server-1",
        owner=owner,
        process=process,
        connection_file="/nowhere/kernel-kernel.json",
        cwd=None,
        owned_until=time.monotonic(),
    )


def is_free(folder: KernelFolder) -> bool:
    """Return whether nobody has the lock any more."""
    lock = KernelLock.acquire(folder.lock_file("kernel"))
    if lock is not None:
        lock.release()
    return lock is not None


def test_a_kernel_that_was_adopted_meanwhile(folder: KernelFolder, process: ProcessMark) -> None:
    """By this process, as its record says under the lock."""
    this_process = ProcessMark.of(os.getpid())
    assert this_process is not None
    folder.write(record_of(owner=this_process, process=process))
    assert stop_detached(folder, "kernel") is StopResult.OWNED
    assert process.is_alive
    assert folder.kernel_ids() == ["kernel"]
    assert is_free(folder)


def test_a_kernel_that_was_ended_meanwhile(folder: KernelFolder) -> None:
    """Its files went: nothing of it comes back."""
    assert stop_detached(folder, "kernel") is StopResult.HAD_ENDED
    assert list(folder.path.iterdir()) == []


def test_a_kernel_that_does_not_end(
    folder: KernelFolder, process: ProcessMark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits for a dead disk: its record stays, for the next who tries."""
    monkeypatch.setattr(stopping, "end_kernel", lambda *_: False)
    folder.write(record_of(owner=ProcessMark(process.pid, 1), process=process))
    assert stop_detached(folder, "kernel") is StopResult.RUNS_ON
    assert folder.kernel_ids() == ["kernel"]
    assert is_free(folder)


@contextmanager
def answering(
    status: int, *, location: str = "", certificate: tuple[Path, Path] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield the port of a server that has one answer, and what it is asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            asked.append(f"{self.path} {self.headers['Authorization']}")
            self.send_response(status)
            self.send_header("Location", location)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing of a client that does not go on."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_kernel_is_named_under_the_base_url() -> None:
    with answering(204) as (port, asked):
        OwnerAPI(False, "127.0.0.1", port, "/user/a%20b/", TOKEN).shut_down("k.1")
        OwnerAPI(False, "127.0.0.1", port, "/", TOKEN).shut_down("k-2")
    assert asked == [
        f"/user/a%20b/api/kernels/k.1 token {TOKEN}",
        f"/api/kernels/k-2 token {TOKEN}",
    ]


def test_an_answer_that_leads_elsewhere_is_not_followed() -> None:
    with (
        answering(204) as (other, others),
        answering(302, location=f"http://127.0.0.1:{other}/") as (port, asked),
    ):
        with pytest.raises(OwnerUnreachable, match=r"^it answers 302$"):
            OwnerAPI(False, "127.0.0.1", port, "/", TOKEN).shut_down("kernel")
        assert len(asked) == 1
        assert others == []


def test_a_certificate_has_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = Certificate.of("127.0.0.1")
    files = (tmp_path / "server.crt", tmp_path / "server.key")
    files[0].write_text(certificate.text)
    files[1].write_text(certificate.key)
    with answering(204, certificate=files) as (port, asked):
        owner = OwnerAPI(True, "127.0.0.1", port, "/", TOKEN)
        with pytest.raises(OwnerUnreachable, match="does not trust its certificate") as caught:
            owner.shut_down("kernel")
        assert not caught.value.may_pass
        assert asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
        owner.shut_down("kernel")
        assert len(asked) == 1


def test_a_token_is_not_in_a_repr() -> None:
    assert TOKEN not in repr(OwnerAPI(False, "127.0.0.1", 1, "/", TOKEN))
