"""Beside an extension that has a session manager of its own, as jupyter-server-documents has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from ..databases import Database
from .conftest import stored_in
from .passwords import leaked, password_of
from .process import OTHER_KERNEL
from .rows import rows_of
from .server import PATIENT, JupyterServer

pytestmark = [pytest.mark.system, pytest.mark.spread]

NewServer = Callable[..., JupyterServer]

#: Extensions are linked by their names in alphabetical order: this one before the package's.
_OTHER: Final = "another_extension"
#: It overrides what jupyter-server-documents overrides, and sets its class in the same step. A
#: room that is not there, or is connected to another kernel, is an error of the request.
_MODULE: Final = '''
from jupyter_server.services.sessions.sessionmanager import SessionManager
from traitlets.config import Config


class Documents(SessionManager):
    """A document's room is connected to the kernel of its session."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rooms = {}

    def connect(self, session_id, kernel_id):
        self.parent.kernel_manager.get_kernel(kernel_id)
        self.rooms[session_id] = kernel_id

    async def get_session(self, **kwargs):
        session = await super().get_session(**kwargs)
        self.rooms.setdefault(session["id"], session["kernel"]["id"])
        return session

    async def create_session(
        self, path=None, name=None, type=None, kernel_name=None, kernel_id=None
    ):
        model = await super().create_session(path, name, type, kernel_name, kernel_id)
        self.connect(model["id"], model["kernel"]["id"])
        return model

    async def update_session(self, session_id, **update):
        if "kernel_id" in update:
            await self.get_session(session_id=session_id)
            self.parent.kernel_manager.get_kernel(self.rooms[session_id])
            self.connect(session_id, update["kernel_id"])
            self.log.info("The room of %s has moved.", session_id)
        return await super().update_session(session_id, **update)

    async def delete_session(self, session_id):
        session = await self.get_session(session_id=session_id)
        assert self.rooms.pop(session_id) == session["kernel"]["id"]
        await super().delete_session(session_id)


def _jupyter_server_extension_points():
    return [{"module": __name__}]


def _link_jupyter_server_extension(serverapp):
    c = Config()
    c.ServerApp.session_manager_class = f"{__name__}.Documents"
    serverapp.update_config(c)


def _load_jupyter_server_extension(serverapp):
    pass
'''
#: As the guide has it.
_BOTH: Final = """
from jupyter_session_store import PersistentSessionManager
from {module} import {name}

class Both({name}, PersistentSessionManager):
    pass

c.ServerApp.session_manager_class = Both
"""


def _beside(new_server: NewServer, config: str) -> JupyterServer:
    enabled = f"c.ServerApp.jpserver_extensions[{_OTHER!r}] = True\n"
    server = new_server(enabled + config)
    server.add_module(_OTHER, _MODULE)
    server.start()
    return server


def test_a_class_of_both_runs(database: Database, new_server: NewServer) -> None:
    both = _BOTH.format(module=_OTHER, name="Documents")
    server = _beside(new_server, f"{stored_in(database)}{PATIENT}{both}")
    assert "has set c.ServerApp.session_manager_class to Documents; it is Both again" in server.log
    session = server.create("a.ipynb")
    assert server.execute(session["kernel"]["id"], "6 * 7") == "42"
    assert server.create("a.ipynb")["id"] == session["id"]
    moved = server.model(server.patch(session["id"], kernel={"name": OTHER_KERNEL}), 200)
    assert moved["kernel"]["name"] == OTHER_KERNEL
    assert [row.kernel_id for row in rows_of(database)] == [moved["kernel"]["id"]]
    assert server.kernels() == [moved["kernel"]["id"]]
    assert f"The room of {session['id']} has moved." in server.log
    renamed = server.model(server.patch(session["id"], path="b.ipynb", name="b.ipynb"), 200)
    assert renamed["kernel"]["id"] == moved["kernel"]["id"]
    assert server.delete(session["id"]).status_code == 204
    assert (rows_of(database), server.kernels()) == ([], [])
    assert "is not used" not in server.log
    assert server.api.get("/api/session-store/health").status_code == 200
    assert server.own_frames() == []


def test_one_warning_says_that_another_class_runs(
    database: Database, new_server: NewServer
) -> None:
    server = _beside(new_server, stored_in(database))
    said = [line for line in server.log.splitlines() if "is not used" in line]
    assert len(said) == 1
    assert "WARNING" in said[0] or said[0].startswith("[W ")
    for part in (
        f"the session manager that runs is {_OTHER}.Documents",
        "c.ServerApp.session_manager_class",
        "c.SessionManager.database_filepath",
    ):
        assert part in said[0]
    password = password_of(database)
    assert not (password and leaked(password, said[0]))
    assert server.api.get("/api/session-store/health").status_code == 404


@pytest.mark.extended("another package")
@pytest.mark.only("sqlite", reason="the session manager is the same on each database")
def test_jupyter_server_documents_runs_on_this_package(
    database: Database, new_server: NewServer, tmp_path: Path
) -> None:
    wanted = ["jupyter-server-documents", "jupyter-server-fileid<0.10", "jupyter-ydoc<5", "pycrdt"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, *wanted],
        check=True,
    )
    extensions = {"jupyter_server_documents": True, "jupyter_server_fileid": True}
    config = f"c.ServerApp.jpserver_extensions.update({extensions!r})\n{stored_in(database)}\n"
    both = _BOTH.format(
        module="jupyter_server_documents.session_manager", name="YDocSessionManager"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    server = new_server(config + both, environment={"PYTHONPATH": path})
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (server.root / "a.ipynb").write_text(json.dumps(notebook))
    server.start()
    session = server.create("a.ipynb", kernel={"name": "python3"})
    assert f"to kernel {session['kernel']['id']}" in server.log, "the document is connected"
    moved = server.model(server.patch(session["id"], kernel={"name": OTHER_KERNEL}), 200)
    assert [row.kernel_id for row in rows_of(database)] == [moved["kernel"]["id"]]
    assert server.kernels() == [moved["kernel"]["id"]]
    assert server.delete(session["id"]).status_code == 204
    assert (rows_of(database), server.kernels()) == ([], [])
