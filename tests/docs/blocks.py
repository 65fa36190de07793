"""The blocks of code in the documentation, and what their authors say of running them.

A comment on the line before a block, which a built page does not show, is a mark:

``<!-- not run: REASON -->``
    why its commands cannot be run by a test;
``<!-- before: COMMAND -->``
    what a reader has done by other means, or has already, done here first;
``<!-- exit code: NUMBER -->``
    what its commands end with, if not with 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).resolve().parent.parent.parent
#: Whose lines are typed.
COMMANDS: Final = frozenset({"bash", "console", "sh"})
#: What is loaded, or parsed.
FILES: Final = frozenset({"ini", "json", "python", "toml", "yaml"})
#: What a reader only looks at.
SHOWN: Final = frozenset({"dockerfile", "text"})
MARKS: Final = ("not run", "before", "exit code")

_MARK: Final = re.compile(r"<!-- ([a-z ]+): (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Parameters
    ----------
    page : str
        The path of its page in the checkout.
    line : int
        Where its fence begins.
    language : str
    text : str
    marks : tuple of tuple of str
        The names and the texts of its marks, in order.
    """

    page: str
    line: int
    language: str
    text: str
    marks: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def marked(self, name: str) -> list[str]:
        """Return what its marks of a name say."""
        return [text for mark, text in self.marks if mark == name]

    @property
    def is_run(self) -> bool:
        """Whether a test runs it."""
        return not self.marked("not run")


def pages() -> list[str]:
    """Return the pages of the documentation, as paths in the checkout."""
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found if "_build" not in path.parts)


def source(page: str) -> str:
    """Return the text of a page as it is written, without what is generated for it."""
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks(page: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    return list(_blocks(page, source(page), 1))


def _blocks(page: str, text: str, first_line: int) -> Iterator[Block]:
    marks: list[tuple[str, str]] = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "html_block":
            for mark in _MARK.finditer(token.content):
                marks.append((mark[1], " ".join(mark[2].split())))
            continue
        if token.type == "fence":
            line = first_line + (token.map or [0])[0]
            language = token.info.strip()
            if language.startswith("{"):
                # A directive, whose text may have blocks of its own.
                yield from _blocks(page, token.content, line + 1)
            else:
                yield Block(page, line, language, token.content, tuple(marks))
        marks = []
