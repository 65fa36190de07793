"""Statements whose text is made once, for what a request waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Delete, Dialect, Insert, Update
from sqlalchemy.exc import StatementError
from sqlalchemy.sql.compiler import SQLCompiler

#: The attribute of a dialect that keeps its texts. They hold the dialect, by the converters of
#: its types: a dictionary of this module's would keep each one, and its engine's password.
_TEXTS: Final = "session_store_texts"


class _Text(NamedTuple):
    """A statement as a driver takes it."""

    sql: str
    #: The names of the parameters in their order, where the driver has no names for them.
    order: tuple[str, ...] | None
    #: What turns a value into what the driver takes, by the parameter's name.
    converters: tuple[tuple[str, Callable[[Any], Any]], ...]


@dataclass(frozen=True, eq=False)
class CompiledStatement:
    """A statement that returns no rows. From any thread.

    ``Connection.execute`` goes through the whole of a statement at each call, to find its
    text in a cache: for one of twenty parameters that takes as long as the rest of
    SQLAlchemy's work and the driver's together. Here the text is found by the dialect alone.

    Parameters
    ----------
    statement : Insert or Update or Delete
        Whose parameters have the type of their column, and no list among them.
    """

    statement: Insert | Update | Delete

    def execute(self, connection: Connection, parameters: Mapping[str, Any]) -> int:
        """Execute the statement, and return how many rows it has found.

        Raises
        ------
        KeyError
            If a parameter is missing.
        sqlalchemy.exc.DBAPIError
            As ``Connection.execute`` does.
        sqlalchemy.exc.StatementError
            If a value is none that its column takes.
        """
        texts = vars(connection.dialect).setdefault(_TEXTS, {})
        text = texts.get(self)
        if text is None:
            text = texts[self] = _compile(self.statement, connection.dialect)
        values = dict(parameters)
        for name, convert in text.converters:
            given = values[name]
            try:
                values[name] = convert(given)
            except Exception as error:
                problem = f"the value of {name} cannot be stored: {type(error).__name__}: {error}"
                raise StatementError(problem, text.sql, None, error) from error
        arranged: Any = values
        if text.order is not None:
            arranged = tuple([values[name] for name in text.order])
        return connection.exec_driver_sql(text.sql, arranged).rowcount


def _compile(statement: Insert | Update | Delete, dialect: Dialect) -> _Text:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    converters = []
    for name, parameter in compiled.binds.items():
        convert = parameter.type.dialect_impl(dialect).bind_processor(dialect)
        if convert is not None:
            converters.append((name, convert))
    order = None if compiled.positiontup is None else tuple(compiled.positiontup)
    return _Text(compiled.string, order, tuple(converters))
