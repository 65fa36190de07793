"""Links from page to page lead somewhere, also where Sphinx does not look: in the README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from generated_reference import expand
from markdown_it import MarkdownIt
from markdown_it.token import Token

from .blocks import ROOT, pages, source

#: As deep as conf.py lets headings be linked to.
_LEVELS: Final = ("h1", "h2", "h3")


@cache
def tokens(page: str) -> list[Token]:
    return MarkdownIt("commonmark").parse(expand(source(page)))


@cache
def anchors(page: str) -> set[str]:
    """Return the anchors that the headings of a page have, on GitHub and in the built page."""
    found: set[str] = set()
    for token, following in zip(tokens(page), tokens(page)[1:], strict=False):
        if token.type == "heading_open" and token.tag in _LEVELS:
            slug = re.sub(r"[^\w\- ]", "", following.content.lower()).replace(" ", "-")
            number = 0
            while (anchor := f"{slug}-{number}" if number else slug) in found:
                number += 1
            found.add(anchor)
    return found


def targets(page: str) -> Iterator[str]:
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                yield str(target)
        if token.type == "fence" and token.info.startswith("{image}"):
            yield token.info.split()[1]


def leads_somewhere(page: str, target: str) -> bool:
    if re.match(r"[a-z]+:", target):
        return True
    name, _, anchor = target.partition("#")
    path = (ROOT / page).parent / name if name else ROOT / page
    if not path.exists():
        return False
    linked = str(Path(path).resolve().relative_to(ROOT))
    return not anchor or anchor in anchors(linked)


@pytest.mark.parametrize("page", [*pages(), "CHANGELOG.md", "SECURITY.md"])
def test_links_lead_somewhere(page: str) -> None:
    assert [target for target in targets(page) if not leads_somewhere(page, target)] == []
