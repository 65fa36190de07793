"""A gateway that costs nothing, for tests of what replicas make of its answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from jupyter_server.services.contents.filemanager import AsyncFileContentsManager
from tornado import web

from jupyter_session_store.kernels.gateway.api import Answer
from jupyter_session_store.kernels.gateway.manager import PersistentGatewayKernelManager
from jupyter_session_store.manager import PersistentSessionManager


def replica(
    folder: Path,
    url: str | None = None,
    kind: type[PersistentSessionManager] = PersistentSessionManager,
) -> PersistentSessionManager:
    """Return the session manager of a server whose root directory is the folder."""
    return kind(
        kernel_manager=PersistentGatewayKernelManager(),
        contents_manager=AsyncFileContentsManager(root_dir=str(folder)),
        database_filepath=url or str(folder / "sessions.db"),
        namespace="tenant",
        gateway_name="g",
        # Nothing here waits in vain: who reaches it hangs.
        claim_timeout=30.0,
    )


class FakeGateway:
    """Answers as a gateway does, or as a test says."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        #: What each kernel was started with.
        self.envs: dict[str, dict[str, str]] = {}
        self.answer: Answer | None = None
        self.of_a_list: Answer | None = None
        self.asked: list[str] = []
        #: The URLs of Jupyter Server's own requests.
        self.requested: list[str] = []
        #: What it says to the end of a kernel.
        self.status = 204
        self.ended: list[str] = []
        #: Awaited half way; a test puts its own there.
        self.starting = asyncio.Event()
        self.starting.set()
        self.ending = asyncio.Event()
        self.ending.set()
        #: Whether it starts a kernel under the id that it is told.
        self.takes_ids = True

    def run(self, *kernel_ids: str) -> None:
        """Have kernels."""
        for kernel_id in kernel_ids:
            self.models[kernel_id] = {
                "id": kernel_id,
                "name": "python3",
                "last_activity": "2026-01-02T03:04:05.000006Z",
                "execution_state": "idle",
                "connections": 2,
            }

    async def ask(self, method: str, kernel_id: str | None = None, **how: Any) -> Answer:
        """Stand for `gatewayapi.ask`."""
        self.asked.append(kernel_id or "all")
        await asyncio.sleep(0)
        if method == "DELETE" and self.answer is None and self.status != 204:
            return Answer(self.status, {"message": "test"})
        if self.answer is not None:
            return self.answer
        if kernel_id is None:
            return self.of_a_list or Answer(200, list(self.models.values()))
        if kernel_id not in self.models:
            return Answer(404, {"message": f"Kernel does not exist: {kernel_id}"})
        if method == "DELETE":
            self._end(kernel_id)
            return Answer(204, None)
        return Answer(200, self.models[kernel_id])

    def _end(self, kernel_id: str) -> None:
        self.ended.append(kernel_id)
        del self.models[kernel_id]

    async def request(self, url: str, **how: Any) -> Any:
        """Stand for Jupyter Server's `gateway_request`."""
        self.requested.append(url)
        await asyncio.sleep(0)
        if how["method"] == "POST":
            await self.starting.wait()
            body = json.loads(how["body"])
            # Jupyter Server's own kernel manager names no id.
            wanted = body.get("kernel_id") if self.takes_ids else None
            kernel_id = wanted or str(uuid4())
            self.run(kernel_id)
            self.models[kernel_id]["name"] = body["name"]
            self.envs[kernel_id] = body["env"]
            return SimpleNamespace(code=201, body=json.dumps(self.models[kernel_id]))
        kernel_id = url.rpartition("/")[2]
        if self.status == 404 or kernel_id not in self.models:
            raise web.HTTPError(404)
        if how["method"] == "GET":
            return SimpleNamespace(code=200, body=json.dumps(self.models[kernel_id]))
        if self.status >= 400:
            raise web.HTTPError(self.status)
        if self.status == 204:
            await self.ending.wait()
            self._end(kernel_id)
        return SimpleNamespace(code=self.status, reason="test")
