"""What the tests do in a database goes on after a deadlock, as what they test does."""

from __future__ import annotations

from unittest.mock import Mock

import psycopg
import pymysql
import pytest

from .databases.database import carry_out


@pytest.mark.parametrize(
    "deadlock",
    [psycopg.errors.DeadlockDetected(), pymysql.err.OperationalError(1213, "Deadlock found")],
    ids=["postgresql", "mysql"],
)
def test_what_a_deadlock_ends_is_tried_again(deadlock: Exception) -> None:
    cursor = Mock()
    cursor.execute.side_effect = [deadlock, deadlock, None]
    carry_out(cursor, "DELETE FROM t WHERE n = %s", (1,))
    assert [call.args for call in cursor.execute.call_args_list] == [
        ("DELETE FROM t WHERE n = %s", (1,))
    ] * 3
    cursor.execute.side_effect = pymysql.err.OperationalError(1290, "read-only")
    with pytest.raises(pymysql.err.OperationalError, match="read-only"):
        carry_out(cursor, "DELETE FROM t")
