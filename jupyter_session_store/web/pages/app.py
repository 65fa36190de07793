"""The pages and their JSON: a tornado application that only reads."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from tornado import web
from tornado.httputil import HTTPServerRequest

from ..._version import __version__
from ...errors import SessionStoreError
from ...records import LIMITS, STATES, printable
from ...sql.admin.overview import NAMESPACE_ORDERS, SERVER_ORDERS, SESSION_ORDERS, Choice
from .reading import StoreReader

_HERE: Final = Path(__file__).parent
#: Rows of a page.
ROWS: Final = 50
MOST_ROWS: Final = 500
#: Nothing from elsewhere, no script but the page's own, and in nobody's frame.
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Viewer:
    """Who looks.

    Parameters
    ----------
    name : str
    visible : str or None
        How the namespaces begin that they may see; ``None``: all.
    """

    name: str
    visible: str | None


@dataclass(frozen=True)
class Pages:
    """What all handlers share."""

    reader: StoreReader
    #: Where the pages are, with a slash at its end.
    base_url: str
    #: Returns who looks, or ``None``: then they are sent to log in, or refused.
    viewer_of: Callable[[web.RequestHandler], Awaitable[Viewer | None]]
    #: Hosts that a request may name; ``None``: any, since a proxy is before it.
    hosts: frozenset[str] | None = None


def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["shown"] = lambda text: "" if text is None else printable(str(text))
    made.filters["seconds"] = in_words
    # For a command.
    made.filters["quoted"] = lambda text: shlex.quote(printable(str(text)))
    return made


def in_words(seconds: float) -> str:
    """Return a duration in words, to its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


_TEMPLATES: Final = _templates()
_LOG: Final = logging.getLogger(__name__)


class PageHandler(web.RequestHandler):
    """What all pages share: who looks, headers, errors."""

    def initialize(self, pages: Pages) -> None:
        """Take what all handlers share."""
        self.pages = pages
        self.viewer = Viewer("", "")

    def set_default_headers(self) -> None:
        """Allow the page's own script and style, and nothing else."""
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    async def prepare(self) -> None:
        """Find out who looks; nobody is shown anything before."""
        hosts = self.pages.hosts
        # A page of another site can name its own host, and lead it to a loopback address.
        if hosts is not None and _host_of(self.request) not in hosts:
            raise web.HTTPError(403, reason="Unknown host")
        site = self.request.headers.get("Sec-Fetch-Site", "none")
        mode = self.request.headers.get("Sec-Fetch-Mode", "navigate")
        if site in ("cross-site", "same-site") and mode != "navigate":
            raise web.HTTPError(403, reason="Cross-site request")
        viewer = await self.pages.viewer_of(self)
        if viewer is None:
            self.refuse()
        else:
            self.viewer = viewer

    def refuse(self) -> None:
        """Send a browser to log in; a program is refused."""
        raise web.HTTPError(403, reason="Not logged in")

    def show(self, template: str, **values: Any) -> None:
        """Write a page."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        whole = {
            "base_url": self.pages.base_url,
            "database": self.pages.reader.name if self.viewer.visible is None else None,
            "version": __version__,
            "viewer": self.viewer,
            **values,
        }
        self.finish(_TEMPLATES.get_template(template).render(whole))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in plain words what is wrong; the cause is in the log."""
        _, error, _ = kwargs.get("exc_info", (None, None, None))
        texts = _ERRORS.get(status_code, ("Something went wrong", "The log says what."))
        if isinstance(error, web.HTTPError) and error.log_message:
            texts = (texts[0], error.log_message)
        if status_code == 503:
            self.set_header("Retry-After", "10")
        if self.wants_json:
            self.finish({"message": f"{texts[0]}. {texts[1]}"})
        else:
            self.show("error.html", title=texts[0], text=texts[1], retry=status_code == 503)

    @property
    def wants_json(self) -> bool:
        """Whether a program asks."""
        return self.request.path.startswith(f"{self.pages.base_url}api/")

    def log_exception(self, *exc_info: Any) -> None:
        """Log no expected fault of the store: it is in the log once."""
        if not isinstance(exc_info[1], web.HTTPError):
            super().log_exception(*exc_info)

    async def read(self, reading: Awaitable[Any]) -> Any:
        """Return what is read; a store that is away is a 503."""
        try:
            return await reading
        except SessionStoreError as error:
            # It is in the log already, once.
            raise web.HTTPError(503) from error

    def text(self, name: str) -> str:
        """Return an argument of the URL; one that is too long for a row is refused."""
        value = self.get_query_argument(name, "", strip=False)
        if len(value) > LIMITS["path"]:
            raise web.HTTPError(400, f"{name} is too long.")
        return value

    def one_of(self, name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
        """Return an argument that is one of some words; by default the first."""
        value = self.text(name) or next(iter(known))
        if value not in known:
            expected = ", ".join(one for one in known if one)
            raise web.HTTPError(400, f"{name} is {value!r}; expected one of: {expected}.")
        return value

    def number(self, name: str, otherwise: int, most: int) -> int:
        """Return an argument that is a whole number."""
        value = self.text(name) or str(otherwise)
        if not (value.isascii() and value.isdigit()) or not 0 <= int(value[:12]) <= most:
            raise web.HTTPError(400, f"{name} is {value!r}; expected a number up to {most}.")
        return int(value)


class TableHandler(PageHandler):
    """A table: the same choice of rows for the page and for its JSON."""

    #: Of the template and the page.
    name: ClassVar[str]
    orders: ClassVar[Mapping[str, Any] | tuple[str, ...]]

    async def get(self) -> None:
        """Show the chosen rows."""
        rows = self.number("limit", ROWS, MOST_ROWS) or ROWS
        choice = Choice(
            visible=self.viewer.visible,
            namespace=self.text("namespace"),
            text=self.text("text"),
            state=self.one_of("state", ("", *sorted(STATES))),
            sort=self.one_of("sort", self.orders),
            descending=self.one_of("order", ("asc", "desc")) == "desc",
            offset=self.number("offset", 0, 10**9),
            limit=rows,
        )
        found = await self.read(self.rows(choice))
        if self.wants_json:
            self.finish(found)
            return
        self.show(f"{self.name}.html", here=self.name, choice=choice, link=self.link, **found)

    def link(self, **changes: Any) -> str:
        """Return the URL of this page with other arguments."""
        given = {name: self.text(name) for name in self.request.query_arguments}
        values = {name: str(value) for name, value in {**given, **changes}.items() if value}
        values.pop("token", None)
        return f"{self.pages.base_url}{self.name}?{urlencode(values)}"

    async def rows(self, choice: Choice) -> dict[str, Any]:
        """Return the chosen rows and what is said of all."""
        raise NotImplementedError


class SessionsHandler(TableHandler):
    """``sessions`` and ``api/sessions``."""

    name = "sessions"
    orders = SESSION_ORDERS

    async def rows(self, choice: Choice) -> dict[str, Any]:
        """Return sessions."""
        return await self.pages.reader.sessions(choice)


class ServersHandler(TableHandler):
    """``servers`` and ``api/servers``."""

    name = "servers"
    orders = SERVER_ORDERS

    async def rows(self, choice: Choice) -> dict[str, Any]:
        """Return servers."""
        silent = self.one_of("liveness", ("", "silent")) == "silent"
        return await self.pages.reader.servers(choice, silent=silent)


class NamespacesHandler(TableHandler):
    """``namespaces`` and ``api/namespaces``."""

    name = "namespaces"
    orders = NAMESPACE_ORDERS

    async def rows(self, choice: Choice) -> dict[str, Any]:
        """Return namespaces."""
        return await self.pages.reader.namespaces(choice)


class SessionHandler(PageHandler):
    """``session`` and ``api/session``: one, and what can be done about it."""

    async def get(self) -> None:
        """Show the session; 404 also where it is another's."""
        namespace, session_id = self.text("namespace"), self.text("session_id")
        found = await self.read(
            self.pages.reader.session(self.viewer.visible, namespace, session_id)
        )
        if found is None:
            raise web.HTTPError(404)
        if self.wants_json:
            self.finish(found)
        else:
            self.show("session.html", here="session", session=found)


class HomeHandler(PageHandler):
    """The base URL."""

    async def get(self) -> None:
        """Go to the sessions."""
        self.redirect(f"{self.pages.base_url}sessions")


class MissingHandler(PageHandler):
    """Any other URL."""

    async def get(self, _path: str = "") -> None:
        """Refuse."""
        raise web.HTTPError(404)


_ERRORS: Final = {
    400: ("This address cannot be read", "A part of it is not as expected."),
    403: (
        "You may not see this page",
        "Open the address that the command printed, with its token, or log in to the hub.",
    ),
    404: ("There is no such page", "It may have gone: a session that was closed is not shown."),
    405: ("The page only reads", "Expected GET. For what changes: jupyter session-store --help"),
    503: (
        "The session store cannot be reached",
        "Nobody's kernels are affected by this page. It is tried again every 10 seconds.",
    ),
}

ROUTES: Final[tuple[tuple[str, type[PageHandler]], ...]] = (
    ("", HomeHandler),
    ("(?:api/)?sessions", SessionsHandler),
    ("(?:api/)?session", SessionHandler),
    ("(?:api/)?servers", ServersHandler),
    ("(?:api/)?namespaces", NamespacesHandler),
)


def application(
    pages: Pages, kinds: type[Any] | None = None, more: list[tuple[str, Any]] | None = None
) -> web.Application:
    """Return the application.

    Parameters
    ----------
    pages : Pages
    kinds : type or None
        Mixed into each handler: how a hub's users log in.
    more : list of routes, optional
    """

    def of(kind: type[PageHandler]) -> type[Any]:
        return kind if kinds is None else type(kind.__name__, (kinds, kind), {})

    shared = {"pages": pages}
    routes: list[Any] = [(f"{pages.base_url}{path}", of(kind), shared) for path, kind in ROUTES]
    static = {"path": str(_HERE / "static")}
    routes.append((f"{pages.base_url}static/(page\\.css|page\\.js)", web.StaticFileHandler, static))
    routes += more or []
    routes.append((r"/(.*)", of(MissingHandler), shared))
    # Signs what a hub's log-in keeps in a cookie meanwhile; nothing outlives the process.
    return web.Application(routes, cookie_secret=secrets.token_bytes(32), log_function=_log_request)


async def watch(reader: StoreReader, interval: float) -> None:
    """Look for ever which servers renew their leases."""
    while True:
        try:
            await reader.look()
        except Exception:
            # Else nobody would look again, and the page would not know whether any server lives.
            _LOG.exception("The leases could not be read; they are read again.")
        await asyncio.sleep(interval)


def _log_request(handler: web.RequestHandler) -> None:
    # Not the arguments: a token may be among them.
    request = handler.request
    _LOG.debug("%d %s %s", handler.get_status(), request.method, printable(request.path))


def _host_of(request: HTTPServerRequest) -> str:
    host = request.host
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
