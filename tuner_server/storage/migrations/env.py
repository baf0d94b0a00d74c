"""Run by Alembic: migrates the connection that `schema.migration_config` was given, inside its transaction."""

from alembic import context

from tuner_server.storage.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    target_metadata=Base.metadata,
    # SQLite alters little in place: Alembic copies the table instead.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
