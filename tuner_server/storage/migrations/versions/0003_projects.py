"""Projects, to which jobs belong, and the tokens that act for them. Earlier jobs belong to the project "default"."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

DEFAULT = "default"


def upgrade() -> None:
    projects = op.create_table(
        "projects",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("max_live_jobs", sa.Integer(), nullable=True),
        sa.Column("max_calls_per_s", sa.Double(), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_projects"),
    )
    op.bulk_insert(projects, [{"name": DEFAULT, "create_time": datetime.now(UTC)}])
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoke_time", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name="fk_tokens_project_projects"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_index("ix_tokens_project", "tokens", ["project", "create_time", "id"])
    for name in ("ix_jobs_create_time", "ix_jobs_status", "ix_jobs_family"):
        op.drop_index(name, "jobs")
    # SQLite can't change a table's constraints: there the table is copied.
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("project", sa.Text(), nullable=False, server_default=DEFAULT))
        jobs.create_foreign_key("fk_jobs_project_projects", "projects", ["project"], ["name"])
        jobs.drop_constraint("uq_jobs_request_id", type_="unique")
        jobs.create_unique_constraint("uq_jobs_project", ["project", "request_id"])
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("project", server_default=None)
    op.create_index("ix_jobs_project_create_time", "jobs", ["project", "create_time", "id"])
    op.create_index("ix_jobs_project_status", "jobs", ["project", "status", "create_time", "id"])
    op.create_index("ix_jobs_project_family", "jobs", ["project", "family", "create_time", "id"])
