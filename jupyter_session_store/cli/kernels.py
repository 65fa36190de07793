"""List the kernels on this machine that outlive their servers, and end them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jupyter_core.application import base_aliases
from traitlets import Bool

from ..errors import ConfigurationError
from .command import JSON_FLAG, YES_FLAGS, ExitCode, StoreCommand
from .command_line import CommandLine
from .output import format_value

if TYPE_CHECKING:
    from ..kernels.outliving.folder import KernelFolder
    from ..kernels.outliving.kernel_process import ProcessMark
    from ..kernels.outliving.kernel_record import KernelRecord
    from ..kernels.outliving.stopping import OwnerAPI, OwnerUnreachable

_COLUMNS: Final = {
    "kernel": "KERNEL",
    "path": "PATH",
    "pid": "PROCESS",
    "age": "AGE",
    "processor": "CPU",
    "memory": "MEMORY",
    "owner": "OWNER",
}
#: Those that are read whole or not at all.
_UNBROKEN: Final = ("kernel", "pid", "age", "processor", "memory")
#: Characters of a kernel's id that say which is meant, and that a table shows.
_SHORTEST_PREFIX: Final = 4
_SHOWN_PREFIX: Final = 8
#: Seconds over which the use of the processor is measured.
_INTERVAL: Final = 0.5
_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


@dataclass(frozen=True)
class _Kernel:
    """A kernel that is recorded.

    Parameters
    ----------
    record : KernelRecord
    process : ProcessMark or None
        Its process, if that runs.
    is_owned : bool
        Whether the server that owns it runs.
    """

    record: KernelRecord
    process: ProcessMark | None
    is_owned: bool

    @property
    def kernel_id(self) -> str:
        return self.record.kernel_id

    @property
    def has_ended(self) -> bool:
        """Whether it is no more than a record: an owned one may be restarting."""
        return self.process is None and not self.is_owned

    @property
    def owner(self) -> str:
        """Which server owns it, in words."""
        record = self.record
        return f"server {record.owner.pid} ({record.place})" if self.is_owned else "nobody"

    @property
    def path(self) -> str | None:
        """The paths of its sessions, if there is any."""
        paths = dict.fromkeys(one.path for one in self.record.sessions if one.path)
        return ", ".join(paths) or None

    def __str__(self) -> str:
        of_server = f", of {self.owner}" if self.is_owned else ""
        return format_value(f"{self.kernel_id} ({self.path or '-'}{of_server})")


@dataclass(frozen=True)
class _Usage:
    """What the process of a kernel uses, without those that it has started."""

    age: float
    processor_percent: float
    processor_seconds: float
    memory: int


class Kernels(StoreCommand):
    name = "jupyter-session-store kernels"
    description = """
    List your kernels on this machine that outlive their servers
    (PersistentKernelManager), or end them: kernels that no server owns now, and
    with KERNEL one of a running server, too. KERNEL is an id, or 4 or more
    characters that it begins with.

    A table shows as much of an id as tells it from the others; a pipe and --json
    have all of it. CPU is the share of one core over half a second, MEMORY what
    is resident; both are of the kernel's process without those that it has
    started. A kernel that has ended is not listed.

    With --json: kernel_id, kernel_name, namespace, sessions (of each its
    session_id, path, name and type), pid, age_seconds, processor_percent,
    processor_seconds (since its start), memory_bytes, owner_pid (null if no
    server owns it), place (where its last server was served), cwd, log_file.

    Asks before it ends anything. A kernel of a running server is ended by that
    server; where it cannot be asked, as with a password and no token, it is
    refused with exit code 5. The exit code is 1 if there is no such kernel, and 3
    if a server is just adopting it. No kernel ends for its age here:
    servers see to detached_kernel_days.

    Needs no database, and reads no configuration file: it has neither --url nor
    --config.
    """
    examples = """
    jupyter session-store kernels
    jupyter session-store kernels --detached --json
    jupyter session-store kernels --stop 5a3f90c2
    jupyter session-store kernels --stop --detached --dry-run
    jupyter session-store kernels --stop --detached --yes
    """
    arguments = {"KERNEL": "The id of a kernel, or 4 or more characters that it begins with."}
    optional_arguments = 1
    aliases = {"log-level": base_aliases["log-level"]}
    flags = {
        **StoreCommand.flags,
        **YES_FLAGS,
        **JSON_FLAG,
        "stop": ({"Kernels": {"stop": True}}, "End KERNEL, or with --detached all of these."),
        "detached": ({"Kernels": {"detached": True}}, "Only kernels that no server owns."),
        "dry-run": (
            {"Kernels": {"dry_run": True}},
            "With --stop: say which kernels would be ended, with --json list them, and change "
            "nothing.",
        ),
    }

    stop = Bool(False, help="End kernels.").tag(config=True)
    detached = Bool(False, help="Only kernels that no server owns.").tag(config=True)
    dry_run = Bool(False, help="Say what would be ended, and change nothing.").tag(config=True)

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """Read none: it may need a database's password, which has nothing to do with kernels."""

    def accepts_setting(self, section: str, name: str) -> bool:
        return CommandLine.accepts_setting(self, section, name)

    def run(self) -> ExitCode:
        from ..kernels.outliving.folder import KernelFolder

        given = self.extra_args[0] if self.extra_args else None
        self._check_usage(given)
        folder = KernelFolder.of_this_machine()
        _check_folder(folder)
        recorded = folder.kernel_ids()
        ids = recorded if given is None else _matching(given, recorded)
        kernels = list(self._read(folder, ids))
        if given is None or not self.stop:
            kernels = [one for one in kernels if one.process is not None]
        if self.detached:
            kernels = [one for one in kernels if not one.is_owned]
        if given is not None and not kernels:
            self.note(f"There is no kernel of the id {given!r}.")
            return ExitCode.NO
        if self.stop:
            return self._stop(folder, kernels)
        self._list(folder, kernels, recorded)
        return ExitCode.DONE

    def _check_usage(self, given: str | None) -> None:
        if self.stop and (given is None) != self.detached:
            raise ConfigurationError(
                "Found --stop with KERNEL and --detached, or with neither; expected one of them. "
                "Nothing was changed."
            )
        if self.stop and not self.dry_run:
            self.require_answer()

    def _read(self, folder: KernelFolder, ids: Sequence[str]) -> Iterator[_Kernel]:
        """Yield the kernels of some ids, and say which records are no use."""
        from ..kernels.outliving.adoption import running_process
        from ..kernels.outliving.kernel_record import BadRecord

        for kernel_id in ids:
            try:
                record = folder.read(kernel_id)
            except FileNotFoundError:
                continue
            except (BadRecord, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                self.note(
                    f"Warning: the kernel record {folder.record_file(kernel_id)} is left alone: "
                    f"{why}. If its kernel is not needed any more, end the kernel and remove the "
                    "file."
                )
            else:
                yield _Kernel(record, running_process(record), record.owner.is_alive)

    def _list(
        self, folder: KernelFolder, kernels: Sequence[_Kernel], recorded: Sequence[str]
    ) -> None:
        measured = _measure(kernels)
        if self.as_json:
            rows: Iterator[dict[str, Any]] = (
                _json_row(folder, one, usage) for one, usage in measured
            )
        else:
            shown = _shown_length(recorded) if sys.stdout.isatty() else None
            rows = (_text_row(one, usage, shown) for one, usage in measured)
        self.output.rows(rows, _COLUMNS, empty="No kernels.", unbroken=_UNBROKEN)

    def _stop(self, folder: KernelFolder, kernels: Sequence[_Kernel]) -> ExitCode:
        """End kernels: those of servers through these, which are found before the question."""
        from ..kernels.outliving.stopping import OwnerAPI, OwnerUnreachable

        owners: dict[str, OwnerAPI] = {}
        for one in kernels:
            if one.is_owned:
                try:
                    owners[one.kernel_id] = OwnerAPI.of(one.record.owner)
                except OwnerUnreachable as error:
                    self.note(f"{_describe_unreachable(one, error)} Nothing was changed.")
                    return _code_of(error)
        running = [one for one in kernels if not one.has_ended]
        if self.dry_run:
            return self._preview(folder, running)
        if running and not self.confirm(
            f"End {len(running)} kernel(s), with all that is in their memory: {_names(running)}?"
        ):
            return ExitCode.NO
        ended: list[str] = []
        codes = {ExitCode.DONE}
        for one in kernels:
            self.interrupt_message = (
                f"{len(ended)} kernel(s) are ended, and {one.kernel_id} may be. "
                "To go on, run it again."
            )
            owner = owners.get(one.kernel_id)
            code = self._end(folder, one) if owner is None else self._ask(owner, one)
            codes.add(code)
            if code == ExitCode.DONE and not one.has_ended:
                ended.append(one.kernel_id)
        if self.as_json:
            self.output.one({"ended": ended})
        else:
            self.output.text(f"Ended {len(ended)} kernel(s).")
        return max(codes)

    def _preview(self, folder: KernelFolder, kernels: Sequence[_Kernel]) -> ExitCode:
        if self.as_json:
            self._list(folder, [one for one in kernels if one.process is not None], [])
        else:
            named = f": {_names(kernels)}" if kernels else ""
            self.output.text(f"Would end {len(kernels)} kernel(s){named}. Nothing was changed.")
        return ExitCode.DONE

    def _end(self, folder: KernelFolder, kernel: _Kernel) -> ExitCode:
        """End a kernel that no server owns."""
        from ..kernels.outliving.kernel_record import BadRecord
        from ..kernels.outliving.stopping import StopResult, stop_detached

        name = f"The kernel {kernel.kernel_id}"
        try:
            result = stop_detached(folder, kernel.kernel_id)
        except (BadRecord, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.note(f"{name} cannot be ended: {why}.")
            return ExitCode.UNAVAILABLE
        if result is StopResult.OWNED:
            self.note(f"{name} is just being adopted or ended by another process. Try again.")
            return ExitCode.UNAVAILABLE
        if result is StopResult.RUNS_ON:
            self.note(f"{name} does not end, though it was killed. Try again.")
            return ExitCode.UNAVAILABLE
        if result is StopResult.HAD_ENDED:
            self.note(f"{name} had ended before; its files are removed.")
        return ExitCode.DONE

    def _ask(self, owner: OwnerAPI, kernel: _Kernel) -> ExitCode:
        """Have a kernel ended by its server."""
        from ..kernels.outliving.stopping import OwnerUnreachable

        try:
            owner.shut_down(kernel.kernel_id)
        except OwnerUnreachable as error:
            self.note(_describe_unreachable(kernel, error))
            return _code_of(error)
        return ExitCode.DONE


def _code_of(error: OwnerUnreachable) -> ExitCode:
    return ExitCode.UNAVAILABLE if error.may_pass else ExitCode.ALIVE


def _describe_unreachable(kernel: _Kernel, error: OwnerUnreachable) -> str:
    again = "Try again, or shut" if error.may_pass else "Shut"
    return (
        f"The kernel {kernel.kernel_id} is of {format_value(kernel.owner)}, which cannot be asked "
        f"to end it: {error}. {again} it down there (in JupyterLab: Running Terminals and "
        "Kernels), or stop that server and run this again."
    )


def _names(kernels: Sequence[_Kernel]) -> str:
    return ", ".join(map(str, kernels))


def _check_folder(folder: KernelFolder) -> None:
    """Refuse a folder that others can write to: its files may be anybody's."""
    from ..kernels.outliving.folder import UnsafeFile, check_folder

    for path in folder.levels:
        try:
            check_folder(path)
        except FileNotFoundError:
            return
        except UnsafeFile as error:
            raise ConfigurationError(
                f"The folder of the kernel records {str(path)!r} cannot be believed: {error}; "
                "expected one of your own that nobody else can write to. Nothing was changed."
            ) from None


def _matching(given: str, ids: Sequence[str]) -> list[str]:
    """Return the id that is meant, or none."""
    if given in ids:
        return [given]
    if len(given) < _SHORTEST_PREFIX:
        raise ConfigurationError(
            f"KERNEL is {given!r}; expected a whole id, or {_SHORTEST_PREFIX} or more characters "
            "of its beginning. Nothing was changed."
        )
    found = [one for one in ids if one.startswith(given)]
    if len(found) > 1:
        raise ConfigurationError(
            f"The ids of {len(found)} kernels begin with {given!r} ({', '.join(found)}); expected "
            "more of the id. Nothing was changed."
        )
    return found


def _measure(kernels: Sequence[_Kernel]) -> Iterator[tuple[_Kernel, _Usage]]:
    """Yield those of some kernels that run still, and what each uses."""
    import psutil

    processes = []
    for one in kernels:
        assert one.process is not None
        try:
            process = psutil.Process(one.process.pid)
            process.cpu_percent()
        except psutil.Error:
            continue
        processes.append((one, process))
    if processes:
        time.sleep(_INTERVAL)
    for one, process in processes:
        try:
            with process.oneshot():
                spent = process.cpu_times()
                usage = _Usage(
                    age=max(0.0, time.time() - process.create_time()),
                    processor_percent=process.cpu_percent(),
                    processor_seconds=spent.user + spent.system,
                    memory=process.memory_info().rss,
                )
        except psutil.Error:
            continue
        if one.process is not None and one.process.is_alive:
            yield one, usage


def _json_row(folder: KernelFolder, kernel: _Kernel, usage: _Usage) -> dict[str, Any]:
    record = kernel.record
    assert kernel.process is not None
    return {
        "kernel_id": record.kernel_id,
        "kernel_name": record.kernel_name,
        "namespace": record.namespace,
        "sessions": [
            {name: getattr(one, name) for name in ("session_id", "path", "name", "type")}
            for one in record.sessions
        ],
        "pid": kernel.process.pid,
        "age_seconds": round(usage.age, 1),
        "processor_percent": usage.processor_percent,
        "processor_seconds": round(usage.processor_seconds, 2),
        "memory_bytes": usage.memory,
        "owner_pid": record.owner.pid if kernel.is_owned else None,
        "place": record.place,
        "cwd": record.cwd,
        "log_file": str(folder.log_file(record.kernel_id)),
    }


def _text_row(kernel: _Kernel, usage: _Usage, shown: int | None) -> dict[str, Any]:
    assert kernel.process is not None
    return {
        "kernel": kernel.kernel_id[:shown],
        "path": kernel.path,
        "pid": kernel.process.pid,
        "age": _format_age(usage.age),
        "processor": f"{usage.processor_percent:.0f}%",
        "memory": _format_bytes(usage.memory),
        "owner": kernel.owner,
    }


def _shown_length(ids: Sequence[str]) -> int:
    """Return how many characters tell each id from the others."""
    longest = max(map(len, ids), default=0)
    lengths = range(_SHOWN_PREFIX, longest)
    return next((one for one in lengths if len({i[:one] for i in ids}) == len(ids)), longest)


def _format_age(seconds: float) -> str:
    """Return an age in its two largest units, such as ``3d 4h``."""
    rest = int(seconds)
    words: list[str] = []
    for unit, length in _UNITS:
        number, rest = divmod(rest, length)
        if number or words:
            words.append(f"{number}{unit}")
    return " ".join(words[:2]) or "0s"


def _format_bytes(number: int) -> str:
    mebibytes = number / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"
