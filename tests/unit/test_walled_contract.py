"""Behind the wall, a role with grants can do all that the contract for stores says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from jupyter_session_store.repository import SessionRepository
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import PersistentRepositoryContract
from jupyter_session_store.testing.outages import Unreachable
from tests.cli.walls import walled
from tests.databases.database import Database
from tests.system.faults import Outage
from tests.unit.test_contract import SETTINGS, briefly

pytestmark = [
    pytest.mark.only("postgresql", reason="others have no policies for rows"),
    pytest.mark.extended("the conformance suite once more, as a role behind the wall"),
]


class TestBehindTheWall(PersistentRepositoryContract):
    """Each of the namespaces that the suite has is one that the role has been granted."""

    @pytest.fixture
    def outage(self, database: Database) -> Iterator[Outage]:
        with walled(database) as house:
            house.build()
            tenant = house.role(house.name("tenant"))
            house.admin.execute(
                f"GRANT {house.group} TO {house.name('tenant')};"
                # All that there are.
                "INSERT INTO jupyter_session_store_wall"
                f" VALUES ('{house.name('tenant')}', '', 'prefix')"
            )
            with Outage(tenant) as outage:
                yield outage

    @pytest.fixture
    def make_repository(self, outage: Outage) -> Callable[[], SessionRepository]:
        return lambda: SQLAlchemySessionRepository(outage.url, **SETTINGS)

    @pytest.fixture
    def unreachable(self, outage: Outage) -> Unreachable:
        return partial(briefly, outage.running)
