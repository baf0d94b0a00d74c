"""What a client saw, and what it may be: a sentence on a report."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("entries", sa.Column("note", sa.Text(), nullable=True))
