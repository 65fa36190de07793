"""The declarative model is mapped to the tables, and names each column with its type."""

from __future__ import annotations

import ast
import inspect

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session as ORMSession

from jupyter_session_store.sql.models import Base, Session
from jupyter_session_store.sql.queries.rows import to_row
from jupyter_session_store.sql.tables import METADATA
from jupyter_session_store.testing import record


def declared_in(model: type) -> dict[str, str]:
    """Return what a type checker is told of the attributes of a class."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    return {
        ast.unparse(node.target): ast.unparse(node.annotation)
        for node in ast.walk(definition)
        if isinstance(node, ast.AnnAssign)
    }


def test_each_table_has_a_class() -> None:
    assert [model.__table__ for model in Base.__subclasses__()] == [*METADATA.tables.values()]


@pytest.mark.parametrize("model", Base.__subclasses__())
def test_each_column_has_its_type(model: type[Base]) -> None:
    expected = {}
    for column in model.__table__.columns:
        kind = getattr(column.type, "impl", column.type).python_type.__name__
        expected[column.name] = f"Mapped[{kind} | None]" if column.nullable else f"Mapped[{kind}]"
    assert declared_in(model) == expected


def test_a_session_of_the_orm() -> None:
    stored = record("a")
    engine = create_engine("sqlite://")
    METADATA.create_all(engine)
    with ORMSession(engine) as session:
        session.add(Session(**to_row(stored)))
        session.commit()
        found = session.scalars(select(Session).where(Session.path == stored.path)).one()
        assert {name: getattr(found, name) for name in stored._fields} == stored._asdict()
    engine.dispose()
