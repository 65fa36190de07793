"""Statements whose text is made once, for what a request waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Delete, Dialect, Insert, Update
from sqlalchemy.sql.compiler import SQLCompiler


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
    _texts: WeakKeyDictionary[Dialect, _Text] = field(default_factory=WeakKeyDictionary)

    def execute(self, connection: Connection, parameters: Mapping[str, Any]) -> int:
        """Execute the statement, and return how many rows it has found.

        Raises
        ------
        KeyError
            If a parameter is missing.
        sqlalchemy.exc.DBAPIError
            As ``Connection.execute`` does.
        """
        text = self._texts.get(connection.dialect)
        if text is None:
            text = self._texts[connection.dialect] = _compile(self.statement, connection.dialect)
        values = dict(parameters)
        for name, convert in text.converters:
            values[name] = convert(values[name])
        given: Any = values
        if text.order is not None:
            given = tuple([values[name] for name in text.order])
        return connection.exec_driver_sql(text.sql, given).rowcount


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
