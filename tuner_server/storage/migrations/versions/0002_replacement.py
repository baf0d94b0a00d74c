"""What a client did instead of a directive."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("entries", sa.Column("replacement", sa.Text(), nullable=True))
