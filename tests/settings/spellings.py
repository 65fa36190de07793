"""Database settings as people write them, good ones and other programs', and mutations of them.

Each holds a secret. Whatever becomes of it, no text may repeat the secret, or a piece of it.
"""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

#: Characters of a secret that is recognised in any text, percent-encoded or not.
SECRET: Final = "Zq7Xw9Kp3Vb2"
#: So many characters of it in a row are a leak.
PIECE: Final = 5

_USERS: Final = st.sampled_from(["u", "jupyter", "jupyter%40corp", "o'neil", "root"])
_HOSTS: Final = st.sampled_from(
    ["h", "db.example.org", "127.0.0.1", "[::1]", "DB", "10.0.0.1,10.0.0.2"]
)
_PORTS: Final = st.sampled_from(["", ":5432", ":3306", ":1"])
_NAMES: Final = st.sampled_from(["d", "jupyter", "data-base", ""])
_POSTGRESQL: Final = st.sampled_from(["postgresql", "postgres", "postgresql+psycopg"])
_MYSQL: Final = st.sampled_from(["mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"])
_OF_POSTGRESQL: Final = st.sampled_from(
    ["", "?sslmode=require", "?connect_timeout=3", "?application_name=x&connect_timeout=3"]
)
_OF_MYSQL: Final = st.sampled_from(["", "?charset=utf8mb4", "?ssl_ca=/etc/ssl/ca.pem"])


def _join(*parts: st.SearchStrategy[str] | str) -> st.SearchStrategy[str]:
    whole = [st.just(part) if isinstance(part, str) else part for part in parts]
    return st.tuples(*whole).map("".join)


_PLACE: Final = ("://", _USERS, f":{SECRET}@", _HOSTS, _PORTS, "/", _NAMES)
_URLS = _join(_POSTGRESQL, *_PLACE, _OF_POSTGRESQL) | _join(_MYSQL, *_PLACE, _OF_MYSQL)
_IN_PARAMETERS = _join(
    _POSTGRESQL | _MYSQL, "://", _HOSTS, "/", _NAMES, "?user=", _USERS, f"&password={SECRET}"
)
_LIBPQ = _join("host=", _HOSTS, " port=5432 user=", _USERS, f" password={SECRET} dbname=", _NAMES)
_LIBPQ_FIRST = _join(f"password={SECRET} user=", _USERS, " host=", _HOSTS)
_JDBC = _join(
    st.sampled_from(["jdbc:postgresql", "jdbc:mysql", "jdbc:mariadb"]),
    "://",
    _HOSTS,
    _PORTS,
    "/",
    _NAMES,
    "?user=",
    _USERS,
    f"&password={SECRET}",
)
_ADO = _join("Server=", _HOSTS, ";Database=", _NAMES, ";User Id=", _USERS, f";Password={SECRET};")
_ADO_SHORT = _join("Host=", _HOSTS, ";Username=", _USERS, f";Pwd={SECRET}")
_GO = _join(_USERS, f":{SECRET}@tcp(", _HOSTS, ":3306)/", _NAMES)
_GO_SOCKET = _join(_USERS, f":{SECRET}@unix(/run/mysqld.sock)/", _NAMES)
_DJANGO = _join(
    "{'ENGINE': 'django.db.backends.postgresql', 'USER': '",
    _USERS,
    f"', 'PASSWORD': '{SECRET}', 'HOST': '",
    _HOSTS,
    "'}",
)
_COMMAND_LINE = _join("mysql -h ", _HOSTS, " -u ", _USERS, f" -p{SECRET} ", _NAMES)
_ENVIRONMENT = _join("PGPASSWORD=", SECRET, " psql -h ", _HOSTS)
FILES = st.sampled_from(
    ["sessions.db", "sqlite:///sessions.db", ":memory:", "sqlite://", "./a b.db"]
)

#: What is left of a URL where a path is expected. Less of it is a path like any other.
_LEFT_OF_URLS: Final = st.one_of(
    _join("/", _USERS, f":{SECRET}@", _HOSTS, "/", _NAMES),
    _join("sqlite:///", _URLS),
    _join("sqlite:////", _USERS, f":{SECRET}@", _HOSTS, "/", _NAMES),
    _join("/tmp/", _NAMES, st.sampled_from(["?password=", "?user=u&password=", ";pwd="]), SECRET),
)

WITH_SECRET = st.one_of(
    _URLS,
    _URLS,
    _URLS,
    _IN_PARAMETERS,
    _LIBPQ,
    _LIBPQ_FIRST,
    _JDBC,
    _ADO,
    _ADO_SHORT,
    _GO,
    _GO_SOCKET,
    _DJANGO,
    _COMMAND_LINE,
    _ENVIRONMENT,
)

_VALUES: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 10),
    st.sampled_from(["", "5", "abc", SECRET]),
    st.lists(st.just(SECRET), max_size=2),
    st.dictionaries(st.sampled_from(["ca", "check_hostname"]), st.just("x"), max_size=1),
)
_ARGUMENTS: Final = st.dictionaries(
    st.sampled_from(
        [
            "application_name",
            "charset",
            "check_same_thread",
            "connect_timeout",
            "password",
            "passwd",
            "read_timeout",
            "ssl",
            "ssl_mode",
            "sslmode",
            "timeout",
        ]
    ),
    _VALUES,
    max_size=3,
)
_GOOD_OPTIONS: Final = st.sampled_from(
    [
        {},
        {"pool_recycle": 300},
        {"echo": False, "pool_pre_ping": True},
        {"connect_args": {"connect_timeout": 3}},
        {"connect_args": {"password": SECRET}},
        {"password_file": "./password"},
    ]
)
#: Options of SQLAlchemy's create_engine, of this package, and of other programs.
_ANY_OPTIONS: Final = st.dictionaries(
    st.sampled_from(
        [
            "connect_args",
            "connect-args",
            "CONN_MAX_AGE",
            "creator",
            "echo",
            "execution_options",
            "future",
            "isolation_level",
            "json_serializer",
            "max_overflow",
            "module",
            "password_file",
            "password_provider",
            "plugins",
            "pool",
            "pool_pre_ping",
            "pool_recycle",
            "pool_size",
            "pool_timeout",
            "poolclass",
        ]
    ),
    st.one_of(_ARGUMENTS, _VALUES),
    max_size=3,
)
OPTIONS = st.one_of(st.just({}), _GOOD_OPTIONS, _ANY_OPTIONS)

_KINDS: Final = st.sampled_from(["drop", "double", "swap"])
_MUTATIONS: Final = st.lists(st.tuples(_KINDS, st.floats(0, 1, exclude_max=True)), max_size=3)


def mutate(text: str, mutations: list[tuple[str, float]]) -> str:
    """Drop, double or swap characters at places that are given as parts of the length."""
    for kind, place in mutations:
        at = int(place * len(text))
        if kind == "drop":
            text = text[:at] + text[at + 1 :]
        elif kind == "double":
            text = text[: at + 1] + text[at:]
        else:
            text = text[:at] + text[at : at + 2][::-1] + text[at + 2 :]
    return text


#: What may stand in ``database_filepath``: a text, or what Python makes of a slip.
SETTINGS = st.one_of(
    _LEFT_OF_URLS,
    _URLS,
    FILES,
    st.builds(mutate, WITH_SECRET, _MUTATIONS),
    st.builds(mutate, WITH_SECRET, _MUTATIONS),
    st.builds(mutate, FILES, _MUTATIONS),
    WITH_SECRET.map(lambda text: text + "\n"),
    WITH_SECRET.map(lambda text: (text,)),
    WITH_SECRET.map(lambda text: [text]),
    WITH_SECRET.map(str.encode),
    WITH_SECRET.map(lambda text: {"url": text}),
)
