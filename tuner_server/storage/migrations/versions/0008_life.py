"""The signs of a job's client, what people note on the job, and an index by which live jobs are counted.

Jobs from before have given their last sign with their last change.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("sign_time", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE jobs SET sign_time = update_time")
    # SQLite can't change a column: there the table is copied.
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("sign_time", nullable=False, server_default=sa.func.current_timestamp())
        jobs.add_column(sa.Column("leave_time", sa.DateTime(timezone=True), nullable=True))
        jobs.add_column(sa.Column("note", sa.Text(), nullable=False, server_default=""))
    op.create_index("ix_jobs_life", "jobs", ["project", "sign_time", "status", "leave_time"])
