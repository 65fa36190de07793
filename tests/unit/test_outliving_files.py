"""Kernel records, their folder and their locks: what is written, what is believed, who owns."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from jupyter_session_store.kernels.authority import RecordedSession
from jupyter_session_store.kernels.outliving.folder import (
    KernelFolder,
    UnsafeFile,
    can_be_recorded,
    read_safely,
    this_machine,
)
from jupyter_session_store.kernels.outliving.kernel_lock import KernelLock
from jupyter_session_store.kernels.outliving.kernel_process import ProcessMark
from jupyter_session_store.kernels.outliving.kernel_record import BadRecord, KernelRecord
from jupyter_session_store.kernels.outliving.owned_kernels import OwnedKernels, Owner, cut_log
from jupyter_session_store.records import SessionRecord

LOG = logging.getLogger(__name__)
SESSION = RecordedSession(
    "s", "a b/\U0001f680.ipynb", None, "notebook", "2026-01-02T03:04:05.000006+00:00", 3
)
RECORD = KernelRecord(
    kernel_id="k",
    kernel_name="python3",
    namespace="dir:/\udcff home",
    place="8888:/",
    server_id="server",
    owner=ProcessMark(7, 8),
    process=ProcessMark(9, 10),
    connection_file="/run/kernel-k.json",
    cwd=None,
    info={"protocol_version": "5.3"},
    owned_until=1.5,
    former_servers=("before",),
    sessions=(SESSION,),
)


@pytest.fixture
def folder(tmp_path: Path) -> KernelFolder:
    folder = KernelFolder(tmp_path / "records" / "machine")
    folder.prepare()
    return folder


@pytest.fixture
def owned(folder: KernelFolder) -> OwnedKernels:
    mark = ProcessMark.of(os.getpid())
    assert mark is not None
    return OwnedKernels(folder, Owner("tenant", "8888:/", "server", mark), LOG)


def test_a_record_has_of_a_session_what_nothing_else_says() -> None:
    """A new column is lost when the next server takes the session over, unless it is here."""
    said = {"namespace", "authority", "server_id", "kernel_id", "kernel_name"}
    made_anew = {"kernel_model", "state", "claim", "updated_at"}
    recorded = {one.name for one in fields(RecordedSession)}
    assert sorted([*recorded, *said, *made_anew]) == sorted(SessionRecord._fields)


def test_what_goes_in_comes_out(folder: KernelFolder) -> None:
    for record in (RECORD, RECORD.replace(process=None, sessions=(), cwd="/tmp", info={})):
        folder.write(record)
        assert folder.read("k") == record
    assert [path.name for path in folder.path.iterdir()] == ["k.json"]
    assert folder.kernel_ids() == ["k"]


def test_a_crash_at_any_step_of_writing_leaves_a_whole_record(
    folder: KernelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = RECORD.replace(owned_until=2.5)

    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    for step, survives in (("unlink", RECORD), ("rename", newer)):
        folder.write(RECORD)
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, crash)
            with pytest.raises(Crash):
                folder.write(newer)
        assert folder.kernel_ids() == ["k"]
        assert folder.read("k") == survives
    # Cut off while it was written.
    folder.write(RECORD)
    (folder.path / "k.new").write_text("{")
    assert folder.read("k") == RECORD
    folder.remove("k")
    assert folder.kernel_ids() == []


def test_a_record_that_is_written_again_and_again_is_found(
    folder: KernelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks may each time come when it has the other name."""
    folder.write(RECORD)
    looked: list[str] = []

    def look(path: Path) -> bytes:
        looked.append(path.name)
        if len(looked) < 6:
            raise FileNotFoundError(path)
        return read_safely(folder.record_file("k"))

    monkeypatch.setattr("jupyter_session_store.kernels.outliving.folder.read_safely", look)
    assert folder.read("k") == RECORD
    assert looked == ["k.json", "k.new"] * 3
    monkeypatch.undo()
    folder.remove("k")
    with pytest.raises(FileNotFoundError):
        folder.read("k")


def test_a_disk_that_is_full_after_a_crash_leaves_the_only_record_whole(
    folder: KernelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(RECORD)
    # As a crash between the two steps leaves it.
    folder.record_file("k").rename(folder._new_file("k"))
    monkeypatch.setattr(KernelRecord, "to_json", lambda _: "\udcff")
    with pytest.raises(UnicodeEncodeError):
        folder.write(RECORD.replace(owned_until=2.5))
    assert folder.read("k") == RECORD


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(RECORD.to_json()) | changes)


def without(name: str) -> str:
    found = json.loads(RECORD.to_json())
    del found[name]
    return json.dumps(found)


def session(**changes: Any) -> str:
    return changed(sessions=[json.loads(RECORD.to_json())["sessions"][0] | changes])


@pytest.mark.parametrize(
    "text",
    [
        "",
        RECORD.to_json()[:-20],
        "[]",
        "null",
        "\x00",
        changed(format=2),
        changed(format=None),
        changed(owner=None),
        changed(owner=[1]),
        changed(owner=[0, 1]),
        changed(process=[1, "2"]),
        changed(process=[True, 2]),
        changed(process=[-1, 2]),
        changed(namespace=5),
        changed(cwd=5),
        changed(info=[]),
        changed(owned_until="soon"),
        changed(sessions={}),
        changed(sessions=[5]),
        changed(former_servers=5),
        session(version=0),
        session(path=5),
        session(created_at="today"),
        session(created_at="2026-01-02T03:04:05"),
        *map(without, json.loads(RECORD.to_json())),
    ],
)
def test_what_is_no_record_is_refused(folder: KernelFolder, text: str) -> None:
    folder.record_file("k").write_text(text)
    folder.record_file("k").chmod(0o600)
    with pytest.raises(BadRecord):
        folder.read("k")


def by_link(path: Path) -> None:
    target = path.with_suffix(".target")
    path.rename(target)
    path.symlink_to(target)


def by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def of_another_kernel(path: Path) -> None:
    path.write_text(RECORD.replace(kernel_id="other").to_json())


def too_long(path: Path) -> None:
    path.write_text(" " * (4 * 2**20 + 1))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (by_link, "a link"),
        (by_folder, "not of the expected kind"),
        (by_pipe, "not of the expected kind"),
        (lambda path: path.chmod(0o620), "others can write to it"),
        (lambda path: path.chmod(0o602), "others can write to it"),
        (of_another_kernel, "of another kernel, 'other'"),
        (too_long, "longer than"),
    ],
)
def test_what_others_may_have_written_is_not_believed(
    folder: KernelFolder, spoil: Callable[[Path], object], why: str
) -> None:
    folder.write(RECORD)
    spoil(folder.record_file("k"))
    with pytest.raises(BadRecord, match=why):
        folder.read("k")


def test_another_users_is_not_believed(
    folder: KernelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(RECORD)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(UnsafeFile, match="another user's"):
        folder.read("k")
    with pytest.raises(UnsafeFile, match="another user's"):
        folder.prepare()


def test_a_folder_that_is_a_link_or_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="a link"):
        KernelFolder(tmp_path / "link" / "machine").prepare()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UnsafeFile, match="others can write"):
        KernelFolder(tmp_path / "open" / "machine").prepare()


def test_a_machine_has_one_name_which_can_be_a_folder() -> None:
    assert this_machine() == this_machine()
    assert can_be_recorded(this_machine())


@pytest.mark.parametrize(
    "kernel_id", ["", ".", "..", "../k", "a/b", ".k", "a" * 201, "\u00e9", "a\n"]
)
def test_ids_that_are_no_names_of_files_are_not_recorded(
    owned: OwnedKernels, kernel_id: str
) -> None:
    assert not can_be_recorded(kernel_id)
    assert owned.begin_launch(kernel_id, "python3", "/c.json", None) is None
    assert list(owned.folder.path.iterdir()) == []


def test_what_other_machines_left_goes_when_it_is_old(folder: KernelFolder) -> None:
    for name, age in (("old", 91), ("young", 89), (folder.path.name, 1000)):
        one = folder.path.parent / name
        one.mkdir(exist_ok=True)
        (one / "k.json").write_text("")
        then = time.time() - age * 86_400
        os.utime(one / "k.json", (then, then))
        os.utime(one, (then, then))
    folder.remove_foreign()
    left = sorted(path.name for path in folder.path.parent.iterdir())
    assert left == sorted(["young", folder.path.name])


_TAKE = """
import sys, time
from pathlib import Path
from jupyter_session_store.kernels.outliving.kernel_lock import KernelLock
lock = KernelLock.acquire(Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """A function that has another process try to take the lock, and hold it."""
    begun: list[subprocess.Popen[str]] = []

    def take() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _TAKE, str(tmp_path / "k.lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        begun.append(process)
        return process

    yield take
    for process in begun:
        process.kill()
        process.communicate()


def got(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "True\n"


def test_one_process_owns_until_it_ends(
    tmp_path: Path, take: Callable[[], subprocess.Popen[str]]
) -> None:
    first = take()
    assert got(first)
    assert not got(take())
    assert KernelLock.acquire(tmp_path / "k.lock") is None
    first.kill()
    first.wait()
    lock = KernelLock.acquire(tmp_path / "k.lock")
    assert lock is not None
    # Once more, in the same process, is not allowed either.
    assert KernelLock.acquire(tmp_path / "k.lock") is None
    lock.release()
    lock.release()
    assert got(take())


def test_neither_a_fork_nor_a_program_keeps_the_lock(
    tmp_path: Path, take: Callable[[], subprocess.Popen[str]]
) -> None:
    lock = KernelLock.acquire(tmp_path / "k.lock")
    assert lock is not None
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        with subprocess.Popen(["sleep", "600"], close_fds=False) as program:
            assert not got(take())
            lock.release()
            assert got(take())
            program.kill()
    finally:
        os.write(go[1], b".")
        os.waitpid(child, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)


def test_a_lock_on_a_file_that_was_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner removes it between the opening and the locking."""
    path = tmp_path / "k.lock"
    opened = os.open
    opens = []

    def open_late(where: Any, *arguments: Any) -> int:
        descriptor = opened(where, *arguments)
        opens.append(where)
        if len(opens) == 1:
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    lock = KernelLock.acquire(path)
    assert lock is not None
    assert len(opens) == 2
    assert KernelLock.acquire(path) is None


def launched(owned: OwnedKernels, kernel_id: str = "k") -> None:
    descriptor = owned.begin_launch(kernel_id, "python3", f"/kernel-{kernel_id}.json", "/tmp")
    assert descriptor is not None
    os.write(descriptor, b"said\n")
    os.close(descriptor)


def test_a_launch_is_recorded_before_and_after(owned: OwnedKernels) -> None:
    launched(owned)
    assert owned.folder.read("k").process is None
    with subprocess.Popen(["sleep", "600"]) as process:
        owned.note_launched("k", process.pid)
        record = owned.folder.read("k")
        assert record.process == ProcessMark.of(process.pid)
        assert (record.namespace, record.server_id, record.cwd) == ("tenant", "server", "/tmp")
        owned.note_sessions("k", (SESSION,))
        owned.note_info("k", {"protocol_version": "5.3", "banner": "long", "key": "secret"})
        record = owned.folder.read("k")
        assert record.sessions == (SESSION,)
        assert record.info == {"protocol_version": "5.3"}
        # A record goes only with its process.
        owned.forget("k")
        owned.maintain()
        assert "k" not in owned
        assert owned.folder.read("k") == record
        process.kill()
    owned.maintain()
    assert list(owned.folder.path.iterdir()) == []


def test_an_unchanged_session_is_not_written_again(owned: OwnedKernels) -> None:
    launched(owned)
    owned.note_sessions("k", (SESSION,))
    before = owned.folder.record_file("k").stat().st_ino
    owned.note_sessions("k", (SESSION.__class__(**vars(SESSION) | {"version": 9}),))
    assert owned.folder.record_file("k").stat().st_ino == before


def test_a_kernel_without_an_owner_keeps_its_id(owned: OwnedKernels) -> None:
    owned.folder.write(RECORD)
    assert owned.begin_launch("k", "python3", "/c.json", None) is None
    assert owned.folder.read("k") == RECORD


def test_a_full_disk(
    owned: OwnedKernels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    launched(owned)
    written = owned.folder.read("k")

    def fail(self: object, record: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(KernelFolder, "write", fail)
        assert owned.begin_launch("other", "python3", "/c.json", None) is None
        assert "The kernel other ends with this server" in caplog.text
        assert "No space left on device" in caplog.text
        caplog.clear()
        owned.note_sessions("k", (SESSION,))
        owned.note_sessions("k", ())
        owned.note_sessions("k", (SESSION,))
        owned.maintain()
        assert caplog.text.count("cannot be written") == 1
        assert owned.folder.read("k") == written
        caplog.clear()
    with caplog.at_level(logging.INFO):
        owned.maintain()
    assert caplog.text.count("can be written again") == 1
    assert owned.folder.read("k").sessions == (SESSION,)
    assert sorted(path.name for path in owned.folder.path.iterdir()) == [
        "k.json",
        "k.lock",
        "k.log",
    ]


def test_a_restart_that_cannot_be_recorded_ends_with_its_server(
    owned: OwnedKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(owned)

    def fail(self: object, kernel_id: str) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(KernelFolder, "open_log", fail)
    assert owned.begin_launch("k", "python3", "/c.json", None) is None
    assert list(owned.folder.path.iterdir()) == []
    assert "k" not in owned


def test_records_are_touched_now_and_then(folder: KernelFolder) -> None:
    moment = [0.0]
    mark = ProcessMark.of(os.getpid())
    assert mark is not None
    owner = Owner("tenant", "8888:/", "server", mark)
    owned = OwnedKernels(folder, owner, LOG, clock=lambda: moment[0])
    launched(owned)
    first = folder.record_file("k").stat().st_ino
    moment[0] = 3600.0
    owned.maintain()
    assert folder.record_file("k").stat().st_ino == first
    moment[0] = 7 * 3600.0
    owned.maintain()
    assert folder.record_file("k").stat().st_ino != first


def test_a_kernel_that_has_just_lost_its_owner_is_not_taken_for_one_without_for_days(
    folder: KernelFolder,
) -> None:
    moment = [time.monotonic()]
    mark = ProcessMark.of(os.getpid())
    assert mark is not None
    owner = Owner("tenant", "8888:/", "server", mark)
    days = 0.1
    owned = OwnedKernels(folder, owner, LOG, detached_days=days, clock=lambda: moment[0])
    launched(owned)
    written = folder.record_file("k").stat().st_ino
    moment[0] += days * 86_400 / 2
    owned.maintain()
    assert folder.record_file("k").stat().st_ino != written


def test_a_long_log_keeps_its_end(tmp_path: Path) -> None:
    path = tmp_path / "k.log"
    with path.open("ab", buffering=0) as kernel:
        kernel.write(b"x" * 2**20)
        cut_log(path)
        assert path.stat().st_size == 2**20
        kernel.write(b"the end\n")
        cut_log(path)
        assert path.stat().st_size == 2**16
        # The kernel appends wherever the end is now.
        kernel.write(b"more\n")
    assert path.read_bytes().endswith(b"the end\nmore\n")
