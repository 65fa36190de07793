"""A kernel's websocket, as a browser uses it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from types import TracebackType
from typing import Any
from uuid import uuid4

import websocket


class Channels:
    """The websocket ``/api/kernels/<id>/channels``; a context manager.

    Parameters
    ----------
    url : str
        With the token.
    """

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, timeout=60)
        self._session = uuid4().hex

    def execute(self, code: str) -> str:
        """Run code and return what it printed, and its last value.

        Raises
        ------
        AssertionError
            If the code raised an error.
        """
        request = uuid4().hex
        self._socket.send(json.dumps(self._execute_request(request, code)))
        text = ""
        while True:
            message = json.loads(self._socket.recv())
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "execute_result":
                text += content["data"]["text/plain"]
            elif kind == "error":
                raise AssertionError("\n".join(content["traceback"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return text

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def __enter__(self) -> Channels:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _execute_request(self, request: str, code: str) -> dict[str, Any]:
        return {
            "channel": "shell",
            "header": {
                "msg_id": request,
                "msg_type": "execute_request",
                "session": self._session,
                "username": "",
                "date": datetime.now(timezone.utc).isoformat(),
                "version": "5.4",
            },
            "parent_header": {},
            "metadata": {},
            "content": {
                "code": code,
                "silent": False,
                "store_history": False,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": True,
            },
        }
