"""What a client measured at every step besides the loss."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("entries", sa.Column("measures", sa.LargeBinary(), nullable=True))
