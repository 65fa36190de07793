"""What :func:`.authority_kind` and :func:`.server_of` say, as conditions."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, and_, func, literal_column, not_, or_

from ...authorities import AUTHORITIES, SERVER_AUTHORITY
from ..tables import SERVERS, SESSIONS


def _begins(authority: str) -> ColumnElement[bool]:
    """Return the condition that a session's authority begins so; SQLite's LIKE ignores case."""
    length: ColumnElement[int] = literal_column(str(len(authority)))
    return func.substr(SESSIONS.c.authority, literal_column("1"), length) == authority


#: Sessions by the kind of their authority.
OF_KIND: Final = {kind: _begins(text) for kind, text in AUTHORITIES.items()}
#: Sessions on kernels that a server runs itself, and on those that several servers use.
LOCAL: Final = OF_KIND["server"]
SHARED: Final = or_(*(one for kind, one in OF_KIND.items() if kind != "server"))
#: Sessions whose authority no server would have written; and the same for people to type.
UNKNOWN_AUTHORITY: Final = and_(*map(not_, OF_KIND.values()))
UNKNOWN_AUTHORITY_TEXT: Final = " AND ".join(
    f"authority NOT LIKE '{text}%'" for text in AUTHORITIES.values()
)
#: The id of the server that the authority of a :data:`LOCAL` session names. With it that server
#: is looked up by its key. With authorities made of all ids, all are read for each session.
AUTHORITATIVE_SERVER: Final[ColumnElement[str]] = func.substr(
    SESSIONS.c.authority, literal_column(str(len(SERVER_AUTHORITY) + 1))
)
IS_AUTHORITY: Final = SERVERS.c.server_id == AUTHORITATIVE_SERVER
