"""Bad input is the client's fault: no 500, no changed row, no kernel."""

from __future__ import annotations

import json
from typing import Any, Final

import httpx
import pytest

from .conftest import Running
from .process import OTHER_KERNEL
from .rows import dump

pytestmark = [pytest.mark.system, pytest.mark.spread]

_LONG_PATH: Final = "p" * 4097
_LONG_NAME: Final = "n" * 1025
_LONG: Final = "t" * 256
_NUL: Final = "a\0b"
_SURROGATE: Final = "\ud800"

#: What no session can have, in a POST as in a PATCH.
_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "over-long path": {"path": _LONG_PATH},
    "over-long path beyond the BMP": {"path": "🚀" * 4097},
    "over-long name": {"name": _LONG_NAME},
    "over-long type": {"type": _LONG},
    "NUL in the path": {"path": _NUL},
    "NUL in the name": {"name": _NUL},
    "NUL in the type": {"type": _NUL},
    "lone surrogate in the path": {"path": _SURROGATE},
    "lone surrogate in the name": {"name": _SURROGATE},
    "lone surrogate in the type": {"type": _SURROGATE},
    "null as path": {"path": None},
    "number as path": {"path": 1},
    "boolean as name": {"name": True},
    "list as type": {"type": ["notebook"]},
    "object as path": {"path": {"a": 1}},
    "number as kernel": {"kernel": 7},
    "text as kernel": {"kernel": "python3"},
    "list as kernel": {"kernel": []},
    "number as kernel id": {"kernel": {"id": 7}},
    "object as kernel id": {"kernel": {"id": {}}},
    "number as kernel name": {"kernel": {"name": 7}},
    "list as kernel name": {"kernel": {"name": ["python3"]}},
    "over-long kernel id": {"kernel": {"id": _LONG}},
    "over-long kernel name": {"kernel": {"name": _LONG}},
    "NUL in the kernel id": {"kernel": {"id": _NUL}},
    "NUL in the kernel name": {"kernel": {"name": _NUL}},
    "lone surrogate in the kernel id": {"kernel": {"id": _SURROGATE}},
    "lone surrogate in the kernel name": {"kernel": {"name": _SURROGATE}},
    "slash in the kernel id": {"kernel": {"id": "../../etc/passwd"}},
    "backslash in the kernel id": {"kernel": {"id": "..\\x"}},
    "text as notebook": {"notebook": "a.ipynb"},
    "number as the notebook's path": {"notebook": {"path": 3}},
    "NUL in the notebook's path": {"notebook": {"path": _NUL}},
}

_BODIES: Final[dict[str, bytes]] = {
    "no JSON": b"{",
    "not UTF-8": b'{"path": "\xff"}',
    "list": b"[]",
    "text": b'"a.ipynb"',
    "number": b"3",
    "boolean": b"true",
    "list of objects": b'[{"path": "a.ipynb"}]',
    "nested beyond reason": b"[" * 100_000,
}


def test_posts(shared: Running) -> None:
    server = shared.server
    server.create("here.ipynb")
    before, kernels = dump(shared.database), server.kernels()
    base = {"path": "new.ipynb", "name": "new", "type": "notebook"}
    answers = {case: _send(shared, "POST", "", {**base, **bad}) for case, bad in _FIELDS.items()}
    answers |= {case: _send(shared, "POST", "", body) for case, body in _BODIES.items()}

    assert _statuses_but_400(answers) == {}
    assert dump(shared.database) == before
    assert server.kernels() == kernels
    assert server.number_of_kernel_processes() == 1


def test_patches(shared: Running) -> None:
    server = shared.server
    session_id = server.create("here.ipynb")["id"]
    before, kernels = dump(shared.database), server.kernels()
    one = f"/{session_id}"
    answers = {case: _send(shared, "PATCH", one, bad) for case, bad in _FIELDS.items()}
    answers |= {case: _send(shared, "PATCH", one, body) for case, body in _BODIES.items()}
    # Good beside bad: nothing of it is done.
    mixed = {"path": "moved.ipynb", "name": _LONG_NAME, "kernel": {"name": OTHER_KERNEL}}
    answers["good beside bad"] = _send(shared, "PATCH", one, mixed)

    assert _statuses_but_400(answers) == {}
    assert dump(shared.database) == before
    assert server.kernels() == kernels
    assert server.number_of_kernel_processes() == 1


def test_null_means_not_given(shared: Running) -> None:
    server = shared.server
    nothing = {"path": "a.ipynb", "type": "notebook", "name": None, "kernel": None}
    session = server.model(_send(shared, "POST", "", nothing), 201)
    assert session["kernel"]["name"] == "python3"
    before = dump(shared.database)
    for body in ({"kernel": None}, {"kernel": {"id": None, "name": None}}, {}):
        answer = server.model(_send(shared, "PATCH", f"/{session['id']}", body), 200)
        assert answer["kernel"]["id"] == session["kernel"]["id"]
    assert dump(shared.database) == before


def test_unknown_fields_are_ignored(shared: Running) -> None:
    server = shared.server
    session = server.create("a.ipynb", state="closing", namespace="dir:/", colour="blue")
    before = dump(shared.database)
    assert before[0][0] == f"dir:{server.root}"
    answer = server.patch(session["id"], session_id="x", namespace="dir:/", kernel_id="y")
    assert answer.status_code == 200
    assert dump(shared.database) == before


def test_session_ids_that_no_session_has(shared: Running) -> None:
    server = shared.server
    server.create("here.ipynb")
    before, kernels = dump(shared.database), server.kernels()
    ids = ["a-b-c-d-e", f"{'a' * 300}-b-c-d-e", "é-b-c-d-e", "%00-b-c-d-e", "x", "'"]
    for session_id in ids:
        for method in ("GET", "PATCH", "DELETE"):
            answer = _send(shared, method, f"/{session_id}", {"path": "b.ipynb"})
            assert answer.status_code in (400, 404), (method, session_id, answer.text)
    assert dump(shared.database) == before
    assert server.kernels() == kernels


def _send(shared: Running, method: str, where: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return shared.server.api.request(method, f"/api/sessions{where}", content=content)


def _statuses_but_400(answers: dict[str, httpx.Response]) -> dict[str, int]:
    return {
        case: answer.status_code for case, answer in answers.items() if answer.status_code != 400
    }
