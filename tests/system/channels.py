"""A kernel's websocket, as a browser uses it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

import websocket

#: Seconds.
_PATIENCE = 120
_ASK_AGAIN = 2
_CONNECT_AGAIN = 15
#: Before it opens a websocket, Jupyter Server asks the kernel who it is, once, and waits for 60 s
#: (``kernel_info_timeout``).
_OPENING = 75


class Channels:
    """The websocket ``/api/kernels/<id>/channels``; a context manager.

    Parameters
    ----------
    url : str
        With the token, unless that is in a header.
    header : mapping
        What is sent with the request to open it.
    join : bool
        Whether to wait until the kernel answers, which one that is busy does not.
    """

    def __init__(
        self, url: str, header: Mapping[str, str] | None = None, *, join: bool = True
    ) -> None:
        self._session = uuid4().hex
        if not join:
            self._socket = websocket.create_connection(url, timeout=_PATIENCE, header=header)
            return
        deadline = time.monotonic() + _OPENING + 2 * _CONNECT_AGAIN
        while True:
            self._socket = websocket.create_connection(url, timeout=_OPENING, header=header)
            try:
                if self._joined():
                    break
            except BaseException:
                self.close()
                raise
            # A kernel that ended before it listened is started once more; a connection that was
            # made to the first one stays there.
            self.close()
            assert time.monotonic() < deadline, "the kernel does not answer"

    def _joined(self, patience: float = _CONNECT_AGAIN) -> bool:
        """Ask who the kernel is until its channels are heard, as every front end does.

        What it publishes before the server has joined its channel is lost.
        """
        asked, answered, idle = set(), False, False
        deadline = time.monotonic() + patience
        self._socket.settimeout(_ASK_AGAIN)
        while not (answered and idle):
            if time.monotonic() >= deadline:
                return False
            request = uuid4().hex
            asked.add(request)
            self._send("kernel_info_request", request, {})
            with suppress(websocket.WebSocketTimeoutException):
                while not (answered and idle) and time.monotonic() < deadline:
                    message = self._receive()
                    if message["parent_header"].get("msg_id") in asked:
                        answered |= message["msg_type"] == "kernel_info_reply"
                        idle |= message["content"].get("execution_state") == "idle"
        self._socket.settimeout(_PATIENCE)
        return True

    def execute(self, code: str) -> str:
        """Run code and return what it printed, and its last value.

        Raises
        ------
        AssertionError
            If the code raised an error.
        """
        return self.finish(self.begin(code))

    def begin(self, code: str) -> str:
        """Have code run, and return the id of the request."""
        request = uuid4().hex
        content = {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        self._send("execute_request", request, content)
        return request

    def wait_for_output(self, request: str) -> None:
        """Wait until a request prints something."""
        while True:
            message = self._receive()
            ours = message["parent_header"].get("msg_id") == request
            if ours and message["msg_type"] == "stream":
                return

    def finish(self, request: str) -> str:
        """Return what a request prints from now on, as :meth:`execute`."""
        text = ""
        while True:
            message = self._receive()
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

    def rejoin(self) -> None:
        """Wait until a kernel that was started anew answers on this websocket."""
        assert self._joined(_OPENING), "the kernel does not answer"

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def __enter__(self) -> Channels:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        """Return the next message of the kernel's, within the websocket's time-out.

        The server's pings begin the library's own time-out anew, so that one never ends.
        """
        deadline = time.monotonic() + (self._socket.gettimeout() or _PATIENCE)
        while True:
            kind, frame = self._socket.recv_data_frame(True)
            if kind == websocket.ABNF.OPCODE_TEXT:
                message: dict[str, Any] = json.loads(frame.data)
                return message
            if kind == websocket.ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException("closed by the server")
            if time.monotonic() >= deadline:
                raise websocket.WebSocketTimeoutException("the kernel said nothing more")

    def _send(self, kind: str, request: str, content: dict[str, Any]) -> None:
        header = {
            "msg_id": request,
            "msg_type": kind,
            "session": self._session,
            "username": "",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.4",
        }
        message = {
            "channel": "shell",
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": content,
        }
        self._socket.send(json.dumps(message))
