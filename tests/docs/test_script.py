"""How a page's blocks become a script."""

from __future__ import annotations

from .blocks import _blocks
from .script import commands, looks_like, outputs, page_script

PAGE = """
<!-- before: mkdir somewhere -->
<!-- exit code: 3 -->
```console
$ cat <<'END'
$ not a prompt
END
$ echo x
x
$ false || \\
    exit 3
```

```{note}
<!-- not run: because -->
~~~sh
rm -rf /
~~~
```
"""


def test_a_page() -> None:
    console, note = _blocks("page.md", PAGE, 1)
    assert console.marks == (("before", "mkdir somewhere"), ("exit code", "3"))
    assert [tuple(command) for command in commands(console)] == [
        ("cat <<'END'\n$ not a prompt\nEND", ""),
        ("echo x", "x"),
        ("false || \\\n    exit 3", ""),
    ]
    assert (note.text, note.is_run, str(note)) == ("rm -rf /\n", False, "page.md:16")
    assert "rm -rf" not in page_script([console, note], "sql")


def test_what_a_console_shows() -> None:
    found = outputs("before\n\n@@ page.md:4 0\n  x  12\ny\n\n@@ page.md:4 1\nz\n")
    assert found == {"page.md:4 0": "  x  12\ny\n\n", "page.md:4 1": "z\n"}
    assert looks_like("x 12\ny", found["page.md:4 0"])
    assert not looks_like("x 7\ny", found["page.md:4 0"])
    assert looks_like("x ...", found["page.md:4 0"])
    assert not looks_like("x 7", found["page.md:4 0"])


def test_what_is_another_each_time() -> None:
    shown = "2026-11-22 13:30:05 on 127.0.0.1:5432, 0.5 s"
    assert looks_like(shown, "2027-01-02 03:04:05 on 127.0.0.1:49152, 1.25 s")
    assert not looks_like(shown, "2027-01-02 03:04:05 on 127.0.0.1:49152, 0 s")
