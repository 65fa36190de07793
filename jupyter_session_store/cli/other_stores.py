"""Stores that are no databases: what reads them, and what is said of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from traitlets.utils.importstring import import_item

from ..config import SECTION
from ..config.settings import other_repository
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..records import StoreContents
    from ..repository import SessionRepository
    from .command import StoreCommand

#: Seconds that a store may take to tell all that it holds.
_TIMEOUT: Final = 60.0


def name_of_store(command: StoreCommand) -> str | None:
    """Return what the configured store is; ``None`` if it is a database."""
    repository = None if command.url else other_repository(command.config)
    return None if repository is None else repository.describe().backend


def read_contents(command: StoreCommand) -> StoreContents | None:
    """Return what the configured repository holds; ``None`` if it is the one for databases."""
    repository = None if command.url else other_repository(command.config)
    if repository is None:
        return None
    contents = repository.read_all(timeout=_TIMEOUT)
    if contents is None:
        raise ConfigurationError(
            f"{command.typed} asks for all that is stored, which "
            f"{_describe(command, repository)} does not tell. Name a database instead: --url"
        )
    if getattr(command, "observing", False):
        raise ConfigurationError(
            f"Found --observe; it watches a database, which {_describe(command, repository)} is "
            "not. Leave it out, or name a database: --url"
        )
    return contents


def refuse_other_repository(command: StoreCommand) -> None:
    """Refuse a configured repository that is not the one for databases."""
    repository = other_repository(command.config)
    if repository is None:
        return
    from .app import SessionStoreApp

    kinds = {name: import_item(kind) for name, (kind, _) in SessionStoreApp.subcommands.items()}
    reading = [name for name, kind in kinds.items() if kind.only_reads]
    raise ConfigurationError(
        f"{command.typed} is for databases, which {_describe(command, repository)} is not. For "
        f"such a store there are: {', '.join(reading)}. Name a database instead: --url"
    )


def _describe(command: StoreCommand, repository: SessionRepository) -> str:
    name = command.config[SECTION]["repository"]
    return f"the repository {name!r} ({repository.describe().backend})"
