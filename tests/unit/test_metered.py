"""The measured repository: every verb of the contract reaches it, a new one included."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

import pytest

from jupyter_session_store.memory import MemorySessionRepository
from jupyter_session_store.records import StoreDescription
from jupyter_session_store.repository import SessionRepository
from jupyter_session_store.telemetry.metered import MeteredRepository

#: The contract's verbs; what is asked of the class alone is asked before there is an instance.
VERBS: Final = [
    name
    for name, value in vars(SessionRepository).items()
    if inspect.isfunction(value) and not name.startswith("_")
]
#: What is looked at on its way back.
RESULTS: Final[dict[str, Any]] = {"find": [], "renew": [], "describe": StoreDescription("test")}


def in_memory(kind: type[MemorySessionRepository]) -> MemorySessionRepository:
    return kind(":memory:", options={}, auto_upgrade="safe", log=logging.getLogger("test"))


def noting(
    verb: Callable[..., Any], calls: list[tuple[Any, ...]], result: object
) -> Callable[..., Any]:
    """Return a method like `verb` that notes its arguments, and returns the result."""
    if inspect.iscoroutinefunction(verb):

        async def method(self: object, *args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            return result

        return method

    def plain(self: object, *args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return result

    return plain


def arguments_of(verb: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return one argument for each parameter, none like another."""
    parameters = list(inspect.signature(verb).parameters.values())[1:]
    args = [object() for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    kwargs = {one.name: object() for one in parameters if one.kind is one.KEYWORD_ONLY}
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        kwargs["path"] = object()
    return tuple(args), kwargs


@pytest.mark.parametrize("name", VERBS)
async def test_every_verb_reaches_the_measured_repository(name: str) -> None:
    verb = getattr(SessionRepository, name)
    calls: list[tuple[Any, ...]] = []
    result = RESULTS.get(name, object())
    inner = in_memory(
        type("Inner", (MemorySessionRepository,), {name: noting(verb, calls, result)})
    )
    metered = MeteredRepository(inner)
    args, kwargs = arguments_of(verb)
    calls.clear()
    answer = getattr(metered, name)(*args, **kwargs)
    if inspect.iscoroutinefunction(verb):
        answer = await answer
    assert calls == [(args, kwargs)]
    if inspect.signature(verb).return_annotation != "None":
        assert answer is result
    metered.close()


async def test_a_new_verb_with_a_default_in_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that has it is asked, and for one that has not, the default answers."""

    async def default(self: SessionRepository, number: int) -> str:
        return f"default {number}"

    async def own(self: SessionRepository, number: int) -> str:
        return f"own {number}"

    monkeypatch.setattr(SessionRepository, "new_verb", default, raising=False)
    kinds = {
        "own 1": type("Inner", (MemorySessionRepository,), {"new_verb": own}),
        "default 1": MemorySessionRepository,
    }
    for answer, kind in kinds.items():
        metered: Any = MeteredRepository(in_memory(kind))
        assert await metered.new_verb(1) == answer
        metered.close()


def test_it_is_a_repository() -> None:
    metered = MeteredRepository(in_memory(MemorySessionRepository))
    assert isinstance(metered, SessionRepository)
    with pytest.raises(AttributeError):
        metered.no_such_verb  # type: ignore[attr-defined] # noqa: B018
    metered.close()
