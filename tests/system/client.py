"""What a front end asks of a Jupyter Server, or of a balancer before several."""

from __future__ import annotations

from typing import Any

import httpx

from .channels import Channels

Model = dict[str, Any]


class SessionsClient:
    """Asks for sessions and kernels over HTTP and websocket.

    Attributes
    ----------
    api : httpx.Client
    port : int
    token : str
    log : str
        What a failure shows.
    """

    api: httpx.Client
    port: int
    token: str

    @property
    def log(self) -> str:
        """What the other side has printed."""
        raise NotImplementedError

    def channels(self, kernel_id: str, *, join: bool = True) -> Channels:
        """Return the websocket of a kernel, which has answered unless `join` is false."""
        address = f"ws://127.0.0.1:{self.port}/api/kernels/{kernel_id}/channels"
        return Channels(f"{address}?token={self.token}", join=join)

    def execute(self, kernel_id: str, code: str) -> str:
        """Run code in a kernel and return its output."""
        with self.channels(kernel_id) as channels:
            return channels.execute(code)

    def post(self, path: str, /, **fields: Any) -> httpx.Response:
        """Ask for the session of a notebook at a path."""
        body = {"path": path, "name": path, "type": "notebook", **fields}
        return self.api.post("/api/sessions", json=body)

    def create(self, path: str, /, **fields: Any) -> Model:
        """Create a session and return its model."""
        model: Model = self.model(self.post(path, **fields), 201)
        return model

    def patch(self, session_id: str, /, **fields: Any) -> httpx.Response:
        """Change a session."""
        return self.api.patch(f"/api/sessions/{session_id}", json=fields)

    def get(self, session_id: str) -> httpx.Response:
        """Ask for a session."""
        return self.api.get(f"/api/sessions/{session_id}")

    def delete(self, session_id: str) -> httpx.Response:
        """Delete a session."""
        return self.api.delete(f"/api/sessions/{session_id}")

    def sessions(self) -> list[Model]:
        """Return the list of sessions."""
        models: list[Model] = self.model(self.api.get("/api/sessions"), 200)
        return models

    def kernels(self) -> list[str]:
        """Return the ids of the running kernels."""
        return [kernel["id"] for kernel in self.model(self.api.get("/api/kernels"), 200)]

    def kernel_state(self, kernel_id: str) -> str:
        """Return the state that a kernel is shown in."""
        model = self.model(self.api.get(f"/api/kernels/{kernel_id}"), 200)
        return str(model["execution_state"])

    def model(self, response: httpx.Response, status: int) -> Any:
        """Return the JSON of an answer, whose status is checked."""
        assert response.status_code == status, f"{response.text}\n{self.log[-3000:]}"
        return response.json()
