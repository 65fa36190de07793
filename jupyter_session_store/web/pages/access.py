"""Who may look: the users of a hub, or whoever has the token."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

from tornado import web

from ...config.namespaces import hub_prefix
from .app import Viewer

_COOKIE: Final = "jupyter-session-store-page"
#: Who has it unrestricted sees all.
SCOPE: Final = "read:servers"


class TokenAccess:
    """Whoever has the token sees all.

    Parameters
    ----------
    token : str
    base_url : str
    """

    def __init__(self, token: str, base_url: str) -> None:
        self._token = token
        # What is on other ports of this host is sent the cookie, too.
        self._cookie = hashlib.sha256(f"{_COOKIE}:{token}".encode()).hexdigest()
        self._base_url = base_url

    async def viewer_of(self, handler: web.RequestHandler) -> Viewer | None:
        """Return who looks, by a header, a cookie, or an argument, which becomes a cookie."""
        header = handler.request.headers.get("Authorization", "")
        word, _, given = header.partition(" ")
        if word.lower() in ("token", "bearer") and _equal(given.strip(), self._token):
            return Viewer("operator", None)
        if _equal(handler.get_cookie(_COOKIE) or "", self._cookie):
            return Viewer("operator", None)
        if _equal(handler.get_query_argument("token", ""), self._token):
            handler.set_cookie(
                _COOKIE, self._cookie, path=self._base_url, httponly=True, samesite="Strict"
            )
            # Not to stay in the address, which people copy.
            handler.redirect(self._base_url)
            return Viewer("operator", None)
        return None


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def hub_access(base_url: str) -> tuple[Any, type[Any], list[tuple[str, Any]]]:
    """Return how a hub's users log in: who looks, what handlers need for it, and more routes."""
    from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated

    class HubUsers(HubOAuthenticated):  # type: ignore[misc]
        """Sends a browser to the hub; a program is refused."""

        def refuse(self) -> None:
            if self.wants_json:
                raise web.HTTPError(403)
            self.redirect(self.get_login_url())

    async def viewer_of(handler: Any) -> Viewer | None:
        # What follows is cached by this, and would block.
        await handler.hub_auth.get_user(handler, sync=False)
        user = handler.get_current_user()
        return None if user is None else viewer_of_user(user)

    callback = (f"{base_url}oauth_callback", HubOAuthCallbackHandler)
    return viewer_of, HubUsers, [callback]


def viewer_of_user(user: dict[str, Any]) -> Viewer:
    """Return what a hub's user, or service, may see: all with the scope, else their own."""
    name = str(user["name"])
    if SCOPE in user.get("scopes", ()):
        return Viewer(name, None)
    if user.get("kind", "user") != "user":
        raise web.HTTPError(403, f"The service needs the scope {SCOPE}.")
    return Viewer(name, hub_prefix(name))
