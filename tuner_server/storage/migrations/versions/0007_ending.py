"""What came of an average of the weights."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("entries", sa.Column("ending", sa.Text(), nullable=True))
