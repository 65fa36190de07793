"""One script of all that a page has its reader run, in order."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Final, NamedTuple

from .blocks import COMMANDS, Block

#: What goes on until it is ended.
_SERVER: Final = re.compile(r"(?:exec )?jupyter (?:lab|server|notebook)\b")
#: What an output has otherwise each time, and what stands for it. A count is not among it.
_OTHERS: Final = {
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
    r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?": "DATE",
    r":\d+\b": ":PORT",
    r"\d+\.\d+": "FRACTION",
}
#: Begins a line of the output which says what the following lines are the output of.
MARKER: Final = "@@ "

_PROLOGUE: Final = f"""
exec 2>&1
block() {{ printf '\\n{MARKER}%s\\n' "$1"; }}
expect() {{
  if [ "$1" -ne "$2" ]; then echo "It ended with $1; expected $2."; exit 1; fi
}}
wait_for() {{
  until curl --silent --output /dev/null "http://127.0.0.1:$JUPYTER_PORT/api"; do
    kill -0 "$1" || {{ cat server.log; exit 1; }}
    sleep 0.2
  done
}}
servers=
end_servers() {{
  for server in $servers; do kill -TERM "$server" 2>/dev/null; wait "$server"; done
}}
trap end_servers EXIT
"""


class Command(NamedTuple):
    """A command, and the output that the page shows of it."""

    text: str
    output: str


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a block.

    In a ``console`` a line that begins with ``$`` is typed, and so is what the
    shell still wants after it; any other is output.
    """
    if block.language != "console":
        yield Command(block.text, "")
        return
    lines = iter(block.text.splitlines())
    typed: list[str] = []
    shown: list[str] = []
    for line in lines:
        if not line.startswith("$ "):
            assert typed, f"{block}: a console begins with a command"
            shown.append(line)
            continue
        if typed:
            yield Command("\n".join(typed), "\n".join(shown))
        typed, shown = [line[2:]], []
        while not _is_whole("\n".join(typed)):
            typed.append(next(lines))
    if typed:
        yield Command("\n".join(typed), "\n".join(shown))


def _is_whole(text: str) -> bool:
    # Of a here-document that does not end it only warns.
    checked = subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True, check=False
    )
    return not (checked.returncode or checked.stderr or text.endswith("\\"))


def page_script(blocks: list[Block], sql_client: str) -> str:
    """Return a script that runs the blocks of a page, each after its marker.

    Parameters
    ----------
    blocks : list of Block
    sql_client : str
        What takes SQL from its standard input.
    """
    parts = [_PROLOGUE]
    for block in blocks:
        runs = block.language in COMMANDS | {"sql"} and block.is_run
        if not runs:
            continue
        for before in block.marked("before"):
            parts.append(_step(f"{block} (before)", before, 0))
        code = int((block.marked("exit code") or ["0"])[0])
        if block.language == "sql":
            typed = f"{sql_client} <<'END OF SQL'\n{block.text}END OF SQL"
            parts.append(_step(str(block), typed, code))
            continue
        for number, command in enumerate(commands(block)):
            parts.append(_step(f"{block} {number}", command.text, code))
    return "\n".join(parts)


def _step(name: str, command: str, code: int) -> str:
    step = f"block '{name}'\n{{ {command}\n}}"
    if _SERVER.match(command):
        return f'{step} > server.log 2>&1 &\nservers="$servers $!"\nwait_for $!'
    return f"{step}\nexpect $? {code}"


def outputs(printed: str) -> dict[str, str]:
    """Return what the script printed, by the names of its steps."""
    found = {}
    for part in re.split(rf"^{MARKER}", printed, flags=re.MULTILINE)[1:]:
        name, _, output = part.partition("\n")
        found[name] = output
    return found


def looks_like(shown: str, printed: str) -> bool:
    """Return whether an output is as a page shows it.

    Ids, dates, ports and fractions are others each time; ``...`` stands for anything.
    """
    parts = [re.escape(part) for part in re.split(r"\.\.\.", _levelled(shown))]
    return re.fullmatch(r".*".join(parts), _levelled(printed), re.DOTALL) is not None


def _levelled(text: str) -> str:
    for pattern, name in _OTHERS.items():
        text = re.sub(pattern, name, text)
    return " ".join(text.split())
