"""Make the moving picture of the README: a notebook that goes on when its server is killed.

    make picture    writes docs/_static/outliving.gif

JupyterLab runs in the system's Chromium, as in the tests, on a server of its own
that is killed and started again. Each frame is what the page shows at that moment,
over what somebody would have typed in a terminal. The waiting is left out.
"""

from __future__ import annotations

import base64
import html
import io
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from tests.system.browsing import PATIENCE, Lab, chromium, code, lab_config, lab_in, notebook
from tests.system.outliving import OutlivingServer
from tests.system.waiting import until

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "_static" / "outliving.gif"
#: Bytes: more is too much for a page that is read on a train.
LONGEST = 600_000
NAME = "outlives.ipynb"
COUNT = """
import os, time
n = 0
while not os.path.exists("enough"):
    n += 1
    print(n, end=" ")
    time.sleep(1)
""".strip()
#: Pixels.
WIDTH, HEIGHT, TERMINAL = 960, 480, 84
COLOURS = 96

FRAME = """
<style>
  body {{ margin: 0 }}
  img {{ display: block; width: {width}px; height: {height}px }}
  pre {{
    margin: 0; height: {terminal}px; box-sizing: border-box; padding: 12px 16px;
    background: #1e1e1e; color: #e8e8e8; font: 17px/20px monospace;
  }}
</style>
<img src="data:image/png;base64,{page}">
<pre>{typed}</pre>
"""


@dataclass
class Film:
    """What the page showed, one moment after another.

    Parameters
    ----------
    lab : Lab
        The page.
    desk : Page
        Another one, on which each frame is put together.
    """

    lab: Lab
    desk: Page
    typed: list[str] = field(default_factory=list)
    _frames: list[Image.Image] = field(default_factory=list)
    _durations: list[int] = field(default_factory=list)

    def take(self, milliseconds: int) -> None:
        """Take what the page shows now, to be shown for so long."""
        page = base64.b64encode(self.lab.page.screenshot()).decode()
        self.desk.set_content(
            FRAME.format(
                width=WIDTH,
                height=HEIGHT,
                terminal=TERMINAL,
                page=page,
                typed=html.escape("\n".join(self.typed[-3:])),
            )
        )
        frame = Image.open(io.BytesIO(self.desk.screenshot())).convert("RGB")
        self._frames.append(frame)
        self._durations.append(milliseconds)

    def type(self, line: str) -> None:
        """Have a line in the terminal from now on."""
        self.typed.append(f"$ {line}")

    def save(self, path: Path) -> None:
        """Write the picture, which begins anew when it has ended."""
        # Colours of its own in each frame would flicker, and be many more bytes.
        strip = Image.new("RGB", (WIDTH, (HEIGHT + TERMINAL) * len(self._frames)))
        for place, frame in enumerate(self._frames):
            strip.paste(frame, (0, place * frame.height))
        palette = strip.quantize(COLOURS)
        first, *others = (
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self._frames
        )
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=self._durations,
            loop=0,
            optimize=True,
        )


def numbers(lab: Lab) -> list[int]:
    """Return what the counting cell shows."""
    output = lab.cells.nth(1).locator(".jp-OutputArea-output")
    return [int(word) for one in output.all_inner_texts() for word in one.split()]


def count(film: Film, more: int, milliseconds: int) -> None:
    """Take what the page shows whenever the cell has counted further."""
    for _ in range(more):
        seen = len(numbers(film.lab))
        until(lambda seen=seen: len(numbers(film.lab)) > seen, why="it counts")  # type: ignore[misc]
        film.take(milliseconds)


def play(server: OutlivingServer, film: Film) -> None:
    """Do what is shown."""
    lab = film.lab
    lab.page.goto(f"{server.url}/lab/tree/{NAME}?token={server.token}")
    film.type("jupyter lab")
    lab.expect_kernel("Python 3 (ipykernel)")
    film.take(700)
    expect(lab.run(0)).to_have_text("41")
    film.take(900)
    lab.run(1)
    count(film, 3, 500)

    film.type(f"kill -9 {server.pid}    # the server, while the cell counts")
    server.end("SIGKILL")
    expect(lab.page.locator("#jp-main-statusbar")).to_contain_text("| Connecting")
    film.take(1200)
    lab.expect_dialog("Server Connection Error")
    film.take(1200)
    lab.dismiss()
    film.type("jupyter lab")
    film.take(900)
    lab.page.add_locator_handler(lab.dialog, lambda _: lab.dismiss())
    server.start()
    count(film, 3, 500)
    (server.root / "enough").touch()
    expect(lab.cells.nth(1).locator(".jp-InputPrompt")).to_have_text("[2]:")
    film.take(600)
    expect(lab.run(2)).to_have_text("42")
    film.take(3000)


def main() -> int:
    """Make the picture."""
    expect.set_options(timeout=PATIENCE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = OutlivingServer(lab_config(folder))
        stack.callback(server.close)
        cells = code("x = 41\nx"), code(COUNT), code("x + 1")
        (server.root / NAME).write_text(notebook(*cells))
        server.start()
        browser = stack.enter_context(chromium())
        lab = stack.enter_context(lab_in(browser, folder, HEIGHT))
        desk = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT + TERMINAL})
        film = Film(lab, desk)
        play(server, film)
        film.save(PICTURE)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {size // 1000} kB")
    return 0 if size <= LONGEST else 1


if __name__ == "__main__":
    raise SystemExit(main())
