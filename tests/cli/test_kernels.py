"""jupyter session-store kernels: real kernels, with a server and without."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from jupyter_session_store.kernels.authority import RecordedSession
from jupyter_session_store.kernels.outliving.folder import KernelFolder, this_machine
from jupyter_session_store.kernels.outliving.kernel_process import ProcessMark, end
from jupyter_session_store.kernels.outliving.kernel_record import KernelRecord

from ..system.conftest import new_server
from ..system.server import JupyterServer
from ..system.waiting import until
from .cleaning_support import asked
from .conftest import Run
from .support import on_terminal, running

# A fixture that is defined with the other servers.
__all__ = ["new_server"]

CONFIG: Final = """
c.ServerApp.kernel_manager_class = "jupyter_session_store.local.PersistentKernelManager"
c.SessionManager.database_filepath = ":memory:"
"""
#: Where nobody answers: the command has no business there.
NOWHERE: Final = "postgresql://nobody@127.0.0.1:1/nothing"
#: Takes a lock, says so, and keeps it until its input ends.
LOCKING: Final = """
import sys
from pathlib import Path
from jupyter_session_store.kernels.outliving.kernel_lock import KernelLock
lock = KernelLock.acquire(Path(sys.argv[1]))
print("locked" if lock else "refused", flush=True)
sys.stdin.read()
"""
#: Ends when it is asked the second time.
STUBBORN: Final = """
import signal, sys
def refuse(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("asked", flush=True)
signal.signal(signal.SIGTERM, refuse)
print("up", flush=True)
sys.stdin.read()
"""
#: A process that has ended, or never was: no process is started at the first tick.
NOBODY: Final = ProcessMark(2**22 + 1, 1)

NewServer = Callable[..., JupyterServer]


@pytest.fixture
def folder(home: Path) -> KernelFolder:
    """The folder of the records, which is not there yet."""
    return KernelFolder(home / "runtime" / "session-store-kernels" / this_machine())


@pytest.fixture
def serving(home: Path, new_server: NewServer, folder: KernelFolder) -> Iterator[JupyterServer]:
    """A running server whose kernels outlive it, in the surroundings of the command."""
    server = new_server(CONFIG)
    (server.directory / "runtime").mkdir()
    (home / "runtime").symlink_to(server.directory / "runtime")
    server.start()
    yield server
    server.kill()
    for kernel_id in folder.kernel_ids():
        process = folder.read(kernel_id).process
        assert process is None or end(process, patience=5)


def killed(server: JupyterServer) -> None:
    """Kill a server and nothing else."""
    os.kill(server.pid, signal.SIGKILL)
    server.exit_code()


def started(server: JupyterServer, folder: KernelFolder, *paths: str) -> dict[str, KernelRecord]:
    """Return the records of kernels that are started for sessions at some paths."""
    ids = {path: server.create(path)["kernel"]["id"] for path in paths}
    for kernel_id in ids.values():
        until(partial(_has_sessions, folder, kernel_id), why="its session is recorded")
    return {path: folder.read(kernel_id) for path, kernel_id in ids.items()}


def _has_sessions(folder: KernelFolder, kernel_id: str) -> bool:
    return folder.read(kernel_id).sessions != ()


@pytest.fixture
def sleeping() -> Iterator[Callable[[], ProcessMark]]:
    """A function that starts a process of the test's own, which does nothing."""
    running: list[subprocess.Popen[bytes]] = []

    def start() -> ProcessMark:
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        running.append(process)
        mark = ProcessMark.of(process.pid)
        assert mark is not None
        return mark

    yield start
    for process in running:
        process.kill()
        process.wait()


def recorded(folder: KernelFolder, kernel_id: str, **changes: Any) -> KernelRecord:
    """Return a record that was written, of a kernel that has ended and nobody owned."""
    folder.prepare()
    record = KernelRecord(
        kernel_id=kernel_id,
        kernel_name="python3",
        namespace="space",
        place="8888:/",
        server_id="server-1",
        owner=NOBODY,
        process=NOBODY,
        connection_file=str(folder.path.parent.parent / f"kernel-{kernel_id}.json"),
        cwd="/",
        owned_until=time.monotonic(),
    ).replace(**changes)
    folder.write(record)
    Path(record.connection_file).write_text("{}")
    os.close(folder.open_log(kernel_id))
    return record


def session(path: str) -> RecordedSession:
    """Return a session at a path."""
    return RecordedSession(f"of {path}", path, path, "notebook", "2026-01-01T00:00:00+00:00", 1)


def has_ended(record: KernelRecord) -> bool:
    """Return whether nothing is left of a kernel."""
    assert record.process is not None
    return not record.process.is_alive and not Path(record.connection_file).exists()


def listed(run: Run, *words: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the list, by their kernels."""
    done = run("kernels", "--json", *words, url=NOWHERE)
    assert (done.returncode, done.stderr) == (0, ""), done
    return {row["kernel_id"]: row for row in json.loads(done.stdout)}


def check_table(home: Path, records: Mapping[str, KernelRecord]) -> None:
    """Check that a narrow terminal shows each kernel, and breaks nothing that is typed again."""
    code, shown = on_terminal("kernels", home=home, url=NOWHERE)
    assert code == 0
    table = re.sub(r"\x1b\[\d*m", "", shown)
    assert max(map(len, table.splitlines())) <= 80, table
    for record in records.values():
        assert record.process is not None
        assert re.search(rf"^{record.kernel_id[:8]} .* {record.process.pid} ", table, re.M), table


@pytest.mark.system
def test_kernels_that_their_server_has_left(
    run: Run, home: Path, serving: JupyterServer, folder: KernelFolder
) -> None:
    paths = ("a.ipynb", "folder/with a long name/and a notebook of some length.ipynb", "c.ipynb")
    records = started(serving, folder, *paths)
    rows = listed(run)
    assert {row["owner_pid"] for row in rows.values()} == {serving.pid}
    assert listed(run, "--detached") == {}
    check_table(home, records)
    shown = run("kernels", url=NOWHERE).stdout
    assert shown.count(f"\tserver {serving.pid} ({serving.port}:/)\n") == 3

    killed(serving)
    rows = listed(run, "--detached")
    assert rows.keys() == {one.kernel_id for one in records.values()}
    for path, record in records.items():
        row = rows[record.kernel_id]
        assert record.process is not None
        assert row["pid"] == record.process.pid
        assert row["owner_pid"] is None
        assert row["kernel_name"] == "python3"
        assert row["namespace"] == record.namespace
        assert row["place"] == f"{serving.port}:/"
        assert row["cwd"] == record.cwd
        assert Path(row["log_file"]).is_file()
        (found,) = row["sessions"]
        assert found == {
            "session_id": record.sessions[0].session_id,
            "path": path,
            "name": path,
            "type": "notebook",
        }
        assert row["age_seconds"] > 0
        assert row["processor_percent"] >= 0
        assert row["processor_seconds"] > 0
        assert row["memory_bytes"] > 2**20

    lines = run("kernels", url=NOWHERE).stdout.splitlines()
    assert lines[0] == "KERNEL\tPATH\tPROCESS\tAGE\tCPU\tMEMORY\tOWNER"
    form = r"{}\t{}\t\d+\t\d+[smh]( \d+[sm])?\t\d+%\t\d+ MiB\tnobody"
    for path, record in records.items():
        pattern = form.format(record.kernel_id, re.escape(path))
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)

    check_table(home, records)


@pytest.mark.system
def test_ending_kernels_that_their_server_has_left(
    run: Run, home: Path, serving: JupyterServer, folder: KernelFolder
) -> None:
    records = started(serving, folder, "a.ipynb", "b.ipynb", "c.ipynb")
    first, second, third = records.values()
    killed(serving)
    rows = listed(run)

    tried = run("kernels", "--stop", "--detached", "--dry-run", url=NOWHERE)
    assert tried.returncode == 0
    assert tried.stdout.startswith("Would end 3 kernel(s): ")
    assert all(f"{one.kernel_id} ({path})" in tried.stdout for path, one in records.items())
    tried = run("kernels", "--stop", first.kernel_id, "--dry-run", "--json", url=NOWHERE)
    assert [row["kernel_id"] for row in json.loads(tried.stdout)] == [first.kernel_id]
    assert listed(run).keys() == rows.keys()

    refused = run("kernels", "--stop", "--detached", url=NOWHERE)
    assert refused.returncode == 2
    assert "expected --yes, or --dry-run" in refused.stderr
    code, said = asked("kernels", "--stop", "--detached", answer="n", home=home, url=NOWHERE)
    assert code == 1
    assert said.startswith("End 3 kernel(s), with all that is in their memory: ")
    assert all(f"{one.kernel_id} ({path})" in said for path, one in records.items())
    assert said.endswith("Nothing was changed.\n")
    assert listed(run).keys() == rows.keys()

    code, said = asked(
        "kernels", "--stop", first.kernel_id[:12], answer="y", home=home, url=NOWHERE
    )
    assert code == 0
    assert f": {first.kernel_id} (a.ipynb)? [y/N] Ended 1 kernel(s).\n" in said
    assert has_ended(first)
    assert not list(folder.path.glob(f"{first.kernel_id}.*"))
    assert listed(run).keys() == {second.kernel_id, third.kernel_id}

    done = run("kernels", "--stop", "--detached", "--yes", "--json", url=NOWHERE)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)["ended"]) == {second.kernel_id, third.kernel_id}
    assert has_ended(second)
    assert has_ended(third)
    assert list(folder.path.iterdir()) == []
    done = run("kernels", "--stop", "--detached", "--yes", url=NOWHERE)
    assert (done.returncode, done.stdout) == (0, "Ended 0 kernel(s).\n")


@pytest.mark.system
def test_a_kernel_of_a_running_server(
    run: Run, home: Path, serving: JupyterServer, folder: KernelFolder
) -> None:
    """Its server ends it, and so knows of it; its sessions go with it."""
    records = started(serving, folder, "a.ipynb", "b.ipynb")
    first, second = records.values()
    assert run("kernels", "--stop", "--detached", "--yes").stdout == "Ended 0 kernel(s).\n"

    # Whatever a proxy is for, it is not for the token.
    proxy = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    done = run("kernels", "--stop", first.kernel_id[:8], "--yes", url=NOWHERE, **proxy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Ended 1 kernel(s).\n", "")
    assert serving.kernels() == [second.kernel_id]
    assert [one["path"] for one in serving.sessions()] == ["b.ipynb"]
    until(lambda: has_ended(first), why="the server ends it")

    # Nothing of how the server is reached.
    code, said = asked("kernels", "--stop", second.kernel_id, answer="n", home=home, url=NOWHERE)
    assert code == 1
    assert f"({'b.ipynb'}, of server {serving.pid} ({serving.port}:/))?" in said
    assert serving.token not in said
    assert serving.kernels() == [second.kernel_id]


@pytest.mark.system
def test_a_server_that_cannot_be_asked(
    run: Run, serving: JupyterServer, folder: KernelFolder
) -> None:
    (record,) = started(serving, folder, "a.ipynb").values()
    file = serving.directory / "runtime" / f"jpserver-{serving.pid}.json"
    info = json.loads(file.read_text())
    assert info["token"] == serving.token
    secret = "another-s3cr3t"

    def refused(text: str | None, code: int) -> str:
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        done = run("kernels", "--stop", record.kernel_id, "--yes", url=NOWHERE)
        assert (done.returncode, done.stdout[:5]) in [(code, ""), (code, "Ended")], done
        assert "Ended 1" not in done.stdout
        said = done.stderr
        assert f"of server {serving.pid} ({serving.port}:/), which cannot be asked" in said
        assert "down there (in JupyterLab: Running Terminals and Kernels)" in said
        assert secret not in said
        assert serving.token not in said
        assert "http" not in said
        assert serving.kernels() == [record.kernel_id]
        return said

    def changed(**changes: Any) -> str:
        return json.dumps({**info, **changes})

    assert "it takes no token" in refused(changed(token=""), 5)
    assert "it listens at a socket" in refused(changed(url="http+unix://%2Ftmp%2Fs/"), 5)
    assert "it answers 403" in refused(changed(token=secret), 5)
    assert "cannot be sent" in refused(changed(token=f"{secret}\nx: y"), 5)
    assert "of another process" in refused(changed(pid=1), 5)
    assert "cannot be read" in refused("{", 5)
    assert "cannot be read" in refused("[]", 5)
    gone = refused(changed(url="http://127.0.0.1:1/"), 3)
    assert "it does not answer (ConnectionRefusedError). Try again" in gone
    assert "does not have this kernel" in refused(changed(url=f"{info['url']}no-such/"), 3)
    file.chmod(0o666)
    assert "not to be trusted" in refused(changed(), 5)
    assert "it has no file jpserver-" in refused(None, 5)


def test_a_kernel_that_another_process_has_locked(
    run: Run, folder: KernelFolder, sleeping: Callable[[], ProcessMark]
) -> None:
    """A server adopts it: it has the lock, and has not written yet that it owns the kernel."""
    adopted, free = (recorded(folder, f"{n}-kernel", process=sleeping()) for n in (1, 2))
    with subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(folder.lock_file(adopted.kernel_id))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as locking:
        assert locking.stdout is not None
        assert locking.stdout.readline() == "locked\n"
        assert listed(run).keys() == {"1-kernel", "2-kernel"}
        done = run("kernels", "--stop", "1-ke", "--yes")
        assert (done.returncode, done.stdout) == (3, "Ended 0 kernel(s).\n")
        assert "The kernel 1-kernel is just being adopted or ended by another" in done.stderr
        done = run("kernels", "--stop", "--detached", "--yes", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (3, {"ended": ["2-kernel"]})
        assert has_ended(free)
        assert adopted.process is not None
        assert adopted.process.is_alive
        locking.communicate("")
    done = run("kernels", "--stop", "1-ke", "--yes")
    assert (done.returncode, done.stdout) == (0, "Ended 1 kernel(s).\n")
    assert has_ended(adopted)


def test_records_that_cannot_be_believed(
    run: Run, home: Path, folder: KernelFolder, sleeping: Callable[[], ProcessMark]
) -> None:
    process = sleeping()
    good = recorded(folder, "good-kernel", process=process, sessions=(session("a.ipynb"),))
    text = good.to_json()
    for kernel_id, content in {
        "cut-off": text[:200],
        "newer": text.replace('"format": 1', '"format": 2'),
        "renamed": text,
        "not-text": "\0\1",
        "negative": text.replace(str(process.pid), "-1"),
        "writable": text.replace("good-kernel", "writable"),
    }.items():
        folder.record_file(kernel_id).write_text(content)
        folder.record_file(kernel_id).chmod(0o666 if kernel_id == "writable" else 0o600)
    elsewhere = home / "elsewhere.json"
    elsewhere.write_text(text.replace("good-kernel", "linked"))
    elsewhere.chmod(0o600)
    folder.record_file("linked").symlink_to(elsewhere)
    whys = {
        "cut-off": "it is cut off, or not JSON",
        "linked": "it is a link, or not of the expected kind",
        "negative": "a field is missing or wrong (not a positive number)",
        "newer": "it is of format 2, and this release reads format 1",
        "not-text": "it is cut off, or not JSON",
        "renamed": "it is of another kernel, 'good-kernel'",
        "writable": "others can write to it",
    }
    done = run("kernels", "--json")
    assert done.returncode == 0
    assert [row["kernel_id"] for row in json.loads(done.stdout)] == ["good-kernel"]
    assert [line.partition(" is left alone: ") for line in done.stderr.splitlines()] == [
        (
            f"Warning: the kernel record {folder.record_file(kernel_id)}",
            " is left alone: ",
            f"{why}. If its kernel is not needed any more, end the kernel and remove the file.",
        )
        for kernel_id, why in whys.items()
    ]
    for kernel_id in whys:
        done = run("kernels", "--stop", kernel_id, "--yes")
        assert (done.returncode, done.stdout) == (1, ""), done
        assert "is left alone" in done.stderr
        assert folder.record_file(kernel_id).exists()
    assert process.is_alive
    done = run("kernels", "--stop", "--detached", "--yes")
    assert (done.returncode, done.stdout) == (0, "Ended 1 kernel(s).\n")
    assert has_ended(good)
    assert set(folder.kernel_ids()) == set(whys)


@pytest.mark.parametrize("words", [["--stop", "reused"], ["--stop", "--detached"]])
def test_a_process_that_has_the_number_of_an_ended_kernel(
    run: Run, folder: KernelFolder, sleeping: Callable[[], ProcessMark], words: list[str]
) -> None:
    """It is never signalled, and the kernel is not listed."""
    process = sleeping()
    record = recorded(folder, "reused", process=process._replace(started=process.started - 1))
    files = set(folder.path.iterdir())
    assert len(files) == 2
    assert listed(run) == {}
    tried = run("kernels", *words, "--dry-run")
    assert (tried.returncode, tried.stdout) == (
        0,
        "Would end 0 kernel(s). Nothing was changed.\n",
    )
    assert set(folder.path.iterdir()) == files
    done = run("kernels", *words, "--yes")
    assert (done.returncode, done.stdout) == (0, "Ended 0 kernel(s).\n")
    assert process.is_alive
    if "--detached" in words:
        # As the list has it; the next server removes these.
        assert done.stderr == ""
        assert set(folder.path.iterdir()) == files
    else:
        assert done.stderr == "The kernel reused had ended before; its files are removed.\n"
        assert list(folder.path.iterdir()) == []
        assert not Path(record.connection_file).exists()


def test_a_kernel_whose_process_is_not_recorded(
    run: Run, folder: KernelFolder, tmp_path: Path
) -> None:
    """Its server ended while it launched it: it is found by its arguments."""
    record = recorded(folder, "launched", process=None)
    with subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()", record.connection_file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert listed(run)["launched"]["pid"] == process.pid
        done = run("kernels", "--stop", "launched", "--yes")
        assert (done.returncode, done.stdout) == (0, "Ended 1 kernel(s).\n")
        assert process.wait(timeout=60) == -signal.SIGTERM
    assert list(folder.path.iterdir()) == []


def test_which_kernel_is_meant(
    run: Run, folder: KernelFolder, sleeping: Callable[[], ProcessMark]
) -> None:
    process = sleeping()
    for kernel_id in ("abcd-1", "abcd-12", "abcd-3", "xy"):
        recorded(folder, kernel_id, process=process)
    for words, code, said in (
        (["abcd"], 2, "The ids of 3 kernels begin with 'abcd' (abcd-1, abcd-12, abcd-3)"),
        (["abc"], 2, "KERNEL is 'abc'; expected a whole id, or 4 or more characters"),
        (["no-such"], 1, "There is no kernel of the id 'no-such'."),
        (["../x"], 1, "There is no kernel of the id '../x'."),
        (["abcd-3", "--detached"], 2, "expected one of them"),
        ([], 2, "Found --stop with KERNEL and --detached, or with neither"),
    ):
        done = run("kernels", "--stop", "--yes", *words)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert said in done.stderr
    assert listed(run, "abcd-1").keys() == {"abcd-1"}
    assert listed(run, "abcd-12").keys() == {"abcd-12"}
    assert listed(run, "abcd-3").keys() == {"abcd-3"}
    assert listed(run, "xy").keys() == {"xy"}
    assert run("kernels", "no-such").returncode == 1
    assert process.is_alive


def test_ids_that_begin_alike_are_told_apart_on_a_narrow_terminal(
    home: Path, folder: KernelFolder, sleeping: Callable[[], ProcessMark]
) -> None:
    process = sleeping()
    ids = ("0123456789-a-and-more", "0123456789-b-and-more")
    for kernel_id in ids:
        recorded(
            folder,
            kernel_id,
            process=process,
            owner=process,
            place="hub:/user/somebody@example.org/a-server-of-hers/",
            sessions=(session(f"[red]\x1b[31m{'long/' * 50}"),),
        )
    code, table = on_terminal("kernels", home=home, url=NOWHERE, columns=70)
    assert code == 0
    assert "\n0123456789-a  " in table
    assert "\n0123456789-b  " in table
    assert "\x1b[31m" not in table
    assert "[red]" in table


def test_a_folder_that_others_can_write_to(
    run: Run, folder: KernelFolder, sleeping: Callable[[], ProcessMark]
) -> None:
    process = sleeping()
    recorded(folder, "kernel", process=process)
    folder.path.chmod(0o777)
    for words in ([], ["--stop", "kernel", "--yes"]):
        done = run("kernels", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "cannot be believed: others can write to it" in done.stderr
    assert process.is_alive


def test_no_records_and_those_of_another_machine(
    run: Run, home: Path, sleeping: Callable[[], ProcessMark]
) -> None:
    assert listed(run) == {}
    assert run("kernels").stdout.count("\n") == 1
    assert on_terminal("kernels", home=home, url=NOWHERE) == (0, "No kernels.\n")
    assert run("kernels", "--stop", "--detached", "--yes").stdout == "Ended 0 kernel(s).\n"
    assert not (home / "runtime").exists()

    process = sleeping()
    foreign = KernelFolder(home / "runtime" / "session-store-kernels" / "elsewhere-0123456789")
    recorded(foreign, "kernel", process=process)
    assert listed(run) == {}
    assert run("kernels", "--stop", "--detached", "--yes").stdout == "Ended 0 kernel(s).\n"
    assert run("kernels", "--stop", "kernel", "--yes").returncode == 1
    assert process.is_alive
    assert foreign.kernel_ids() == ["kernel"]


def test_neither_a_database_nor_a_configuration_is_needed(
    run: Run, home: Path, folder: KernelFolder, sleeping: Callable[[], ProcessMark]
) -> None:
    """Nor what reads them: the command is quick, and works where these cannot."""
    config = home / "config"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text("raise RuntimeError('not for this')")
    process = sleeping()
    recorded(folder, "kernel", process=process)
    for words in ([], ["--json"], ["--stop", "--detached", "--yes"]):
        done = run("kernels", *words, url="nonsense", PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode == 0, done
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "psutil" in imported
        assert not imported & {"sqlalchemy", "alembic", "jupyter_server"}
    assert not process.is_alive


def test_the_use_of_a_kernel_that_is_busy(run: Run, folder: KernelFolder) -> None:
    folder.prepare()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        recorded(folder, "busy", process=ProcessMark.of(busy.pid))
        until(lambda: listed(run)["busy"]["processor_percent"] > 0, why="it gets a turn")
        row = listed(run)["busy"]
        assert row["memory_bytes"] <= psutil.virtual_memory().total
        assert row["sessions"] == []
        assert "busy\t-\t" in run("kernels").stdout
    finally:
        busy.kill()
        busy.wait()


def test_an_end_that_is_interrupted(run: Run, home: Path, folder: KernelFolder) -> None:
    """What is ended by then is said, and the lock is free again."""
    stubborn = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert stubborn.stdout is not None
    try:
        assert stubborn.stdout.readline() == "up\n"
        recorded(folder, "kernel", process=ProcessMark.of(stubborn.pid))
        with running("kernels", "--stop", "kernel", "--yes", home=home) as ending:
            assert stubborn.stdout.readline() == "asked\n"
            ending.send_signal(signal.SIGINT)
            _, said = ending.communicate()
        assert ending.returncode == 130
        assert said.endswith(
            "Interrupted. 0 kernel(s) are ended, and kernel may be. To go on, run it again.\n"
        )
        assert listed(run).keys() == {"kernel"}
        done = run("kernels", "--stop", "kernel", "--yes")
        assert (done.returncode, done.stdout) == (0, "Ended 1 kernel(s).\n")
    finally:
        stubborn.kill()
        stubborn.communicate()
