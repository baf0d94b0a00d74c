"""A change of the plan of a run, which comes with a report."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("entries", sa.Column("change", sa.Text(), nullable=True))
