"""A kernel under two sessions lives until the last of them leaves it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Running
from .process import OTHER_KERNEL
from .rows import row_of, rows_of

pytestmark = [pytest.mark.system, pytest.mark.spread]


def test_deleting_one_of_two_sessions_keeps_the_kernel(shared: Running) -> None:
    server = shared.server
    first = server.create("a.ipynb")
    kernel_id = first["kernel"]["id"]
    second = server.create("b.ipynb", kernel={"id": kernel_id})
    server.execute(kernel_id, "x = 5")

    assert server.delete(first["id"]).status_code == 204
    assert server.kernels() == [kernel_id]
    assert server.execute(kernel_id, "x") == "5"
    assert [row.session_id for row in rows_of(shared.database)] == [second["id"]]

    assert server.delete(second["id"]).status_code == 204
    assert server.kernels() == []
    assert rows_of(shared.database) == []


@pytest.mark.parametrize("by", ["name", "id"])
def test_moving_one_of_two_sessions_keeps_the_kernel(shared: Running, by: str) -> None:
    server = shared.server
    first = server.create("a.ipynb")
    kernel_id = first["kernel"]["id"]
    second = server.create("b.ipynb", kernel={"id": kernel_id})
    server.execute(kernel_id, "x = 5")

    def target() -> dict[str, str]:
        if by == "name":
            return {"name": OTHER_KERNEL}
        return {"id": server.api.post("/api/kernels", json={}).json()["id"]}

    moved = server.model(server.patch(first["id"], kernel=target()), 200)
    third = moved["kernel"]["id"]
    assert third != kernel_id
    assert sorted(server.kernels()) == sorted([kernel_id, third])
    assert server.execute(kernel_id, "x") == "5"
    assert row_of(shared.database, second["id"]).kernel_id == kernel_id

    moved = server.model(server.patch(second["id"], kernel={"id": third}), 200)
    assert moved["kernel"]["id"] == third
    assert server.kernels() == [third], "the last session has left the first kernel"


def test_moving_a_session_to_its_own_kernel_keeps_it(shared: Running) -> None:
    server = shared.server
    session = server.create("a.ipynb")
    kernel_id = session["kernel"]["id"]
    server.execute(kernel_id, "x = 5")
    moved = server.model(server.patch(session["id"], kernel={"id": kernel_id}), 200)
    assert moved["kernel"]["id"] == kernel_id
    assert server.execute(kernel_id, "x") == "5"


def test_concurrent_deletes_of_all_sessions_end_the_kernel_once(shared: Running) -> None:
    server = shared.server
    kernel_id = server.create("0.ipynb")["kernel"]["id"]
    for number in range(1, 8):
        server.create(f"{number}.ipynb", kernel={"id": kernel_id})
    ids = [session["id"] for session in server.sessions()]
    assert len(ids) == 8
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(server.delete, ids))
    assert [answer.status_code for answer in answers] == [204] * 8
    assert server.kernels() == []
    assert server.kernel_processes() == []
    assert rows_of(shared.database) == []
    assert server.log.count(f"Kernel shutdown: {kernel_id}") == 1
