"""The built documentation, as a reader sees it in a browser, a narrow one too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from jupyter_session_store import __version__

from ..programs import once
from ..system.browsing import chromium
from .blocks import ROOT

pytestmark = [pytest.mark.timeout(600), pytest.mark.extended("browsers")]

_WIDE, _NARROW = 1280, 500
#: What goes beyond the edge of the page, and cannot be scrolled into it.
_TOO_WIDE = """
() => {
  const width = document.documentElement.clientWidth;
  const scrolled = (one) => {
    for (let up = one; up; up = up.parentElement) {
      if (["auto", "scroll"].includes(getComputedStyle(up).overflowX)) return true;
    }
    return false;
  };
  return [...document.querySelectorAll("main *")]
    .filter((one) => one.getBoundingClientRect().right > width + 1 && !scrolled(one))
    .map((one) => one.tagName + ": " + one.textContent.trim().slice(0, 60));
}
"""


@pytest.fixture(scope="session")
def built(run_folder: Path) -> Path:
    """The folder of the built pages: that of ``make docs``, whose pages are not built again."""
    pages = ROOT / "docs" / "_build" / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(ROOT / "docs"), str(pages)]
    once(run_folder / "documentation", lambda: subprocess.run(command, check=True))
    return pages


def test_the_first_page_says_which_version_it_is_and_where_the_code_is(built: Path) -> None:
    text = (built / "index.html").read_text()
    title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
    assert title is not None
    assert __version__ in title[1]
    assert 'href="https://github.com/' in text


def test_no_page_is_wider_than_a_phone(built: Path) -> None:
    pages = sorted(
        path for path in built.rglob("*.html") if not path.parts[-1].startswith(("gen", "search"))
    )
    assert len(pages) > 40
    artifacts = os.environ.get("JSS_TEST_ARTIFACTS")
    wrong: dict[str, list[str]] = {}
    with chromium() as browser:
        page = browser.new_page(viewport={"width": _NARROW, "height": 900})
        for path in pages:
            page.goto(path.as_uri())
            if page.evaluate("document.documentElement.scrollWidth") > _NARROW:
                wrong[path.name] = ["the page is scrolled sideways"]
            elif beyond := page.evaluate(_TOO_WIDE):
                wrong[path.name] = beyond
        if artifacts:
            _pictures(page, built / "index.html", Path(artifacts))
    assert wrong == {}


def _pictures(page: Page, index: Path, folder: Path) -> None:
    for width in (_WIDE, _NARROW):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(index.as_uri())
        page.screenshot(path=folder / f"front-page-{width}.png")
