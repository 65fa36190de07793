"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}

# To be filled in; operators and servers go by them.
#
# "expanding": servers of the release before go on working, and may start, while this is run and
# after it. "contracting": it takes away or changes what they use. Then upgrade() begins by
# storing the new OLDEST_COMPATIBLE_CODE in jupyter_session_store_meta, so that a server which
# fails over what is gone finds the reason there, and downgrade() ends by storing the old one.
KIND = ""
# The oldest generation of the code (CODE in sql/schema/versions.py) that can work with this revision. Only
# a contracting revision raises it.
OLDEST_COMPATIBLE_CODE = ""
# What data a downgrade loses, in words that follow "loses": it is asked about. None if nothing.
DOWNGRADE_LOSES: str | None = ""


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
