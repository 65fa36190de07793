"""What the documentation tells its readers to run, run; and what it shows them, loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from ..databases import Database
from ..databases.local import claimed_port
from .blocks import COMMANDS, FILES, MARKS, SHOWN, Block, blocks, pages, source
from .configuration import PARSERS, check_store, loaded, unknown_settings
from .sandbox import Sandbox, kinds_of
from .script import commands, looks_like, outputs, page_script

#: Which kinds of database a page's commands are run with; the first is the configured one.
KINDS: Final = {
    "docs/how-to/backup.md": ("postgresql", "mysql"),
    "docs/how-to/galera.md": ("mysql",),
    "docs/how-to/mysql.md": ("mysql",),
    "docs/how-to/outlive.md": ("sqlite",),
    "docs/tutorial.md": ("sqlite",),
}

ALL: Final = [block for page in pages() for block in blocks(page)]


def is_run(page: str) -> bool:
    languages = COMMANDS | {"sql"}
    return any(block.language in languages and block.is_run for block in blocks(page))


def test_each_block_says_what_it_is() -> None:
    known = COMMANDS | FILES | SHOWN | {"sql"}
    assert [f"{block}: {block.language!r}" for block in ALL if block.language not in known] == []
    marks = [
        f"{block}: {name}: {text!r}"
        for block in ALL
        for name, text in block.marks
        if name not in MARKS or not text
    ]
    assert marks == []


#: The first pages of a newcomer, whose commands `make test` runs.
FIRST: Final = ("README.md", "docs/tutorial.md")
LATER: Final = pytest.mark.extended("the commands of the how-to guides")


@pytest.mark.system
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page in FIRST else LATER) for page in pages() if is_run(page)],
)
def test_the_commands_of(
    page: str, named_database: Callable[[str], Database], tmp_path: Path
) -> None:
    default, *others = KINDS.get(page, ("postgresql",))
    kinds = (kinds_of(source(page)) | {default, *others}) - {"sqlite"}
    claim = claimed_port()
    databases = {kind: named_database(kind) for kind in sorted(kinds)}
    sandbox = Sandbox(tmp_path, claim.getsockname()[1], databases, default)
    code, printed = sandbox.run(page_script(blocks(page), "administrator"))
    claim.close()
    print(printed)
    assert code == 0, printed
    found = outputs(printed)
    for block in blocks(page):
        if block.language == "console" and block.is_run:
            for number, command in enumerate(commands(block)):
                if command.output:
                    assert looks_like(sandbox.localised(command.output), found[f"{block} {number}"])


def of(*languages: str) -> pytest.MarkDecorator:
    chosen = [block for block in ALL if block.language in languages and block.is_run]
    return pytest.mark.parametrize("block", chosen, ids=map(str, chosen))


@of("python")
def test_the_configuration(block: Block, tmp_path: Path) -> None:
    text = Sandbox(tmp_path, 8888, {}, "sqlite").localised(block.text)
    if not any(line.startswith("c.") for line in text.splitlines()):
        compile(text, str(block), "exec")
        return
    config = loaded(text)
    assert list(unknown_settings(config)) == []
    check_store(config)


@of(*PARSERS)
def test_the_file(block: Block) -> None:
    PARSERS[block.language](block.text)
