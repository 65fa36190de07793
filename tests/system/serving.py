"""The page that ``jupyter session-store serve`` serves."""

from __future__ import annotations

from typing import Any, ClassVar

import httpx

from ..cli.support import COMMAND
from .process import PATIENCE, JupyterProcess


class PageServer(JupyterProcess):
    """A page of one database, behind a token.

    Parameters
    ----------
    url : str
        Of the database.
    """

    CONFIG_FILE: ClassVar[str] = "jupyter_server_config.py"

    def __init__(self, url: str, **how: Any) -> None:
        super().__init__(**how)
        self._environment |= {
            "JUPYTER_SESSION_STORE_URL": url,
            "JUPYTER_SESSION_STORE_PAGE_TOKEN": self.token,
        }

    def base_config(self) -> str:
        """Return nothing: the environment says all."""
        return ""

    def command(self) -> list[str]:
        """Return what is run."""
        return [COMMAND, "serve", f"--port={self.port}", *self._arguments]

    def rows(self, table: str, **arguments: str | int) -> dict[str, Any]:
        """Return what a program reads of a table."""
        answer = self.api.get(f"/api/{table}", params=arguments)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def page(self, path: str, *statuses: int) -> str:
        """Return a page as it is for a person."""
        answer = self.api.get(f"/{path}")
        assert answer.status_code in (statuses or (200,)), answer.text
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        return answer.text

    def stranger(self, **headers: str) -> httpx.Client:
        """Return a client without the token."""
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=PATIENCE)

    def _answers(self) -> bool:
        try:
            return self.api.get("/api/namespaces", timeout=5).status_code in (200, 503)
        except httpx.TransportError:
            return False
