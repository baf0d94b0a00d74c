"""Alembic's migrations: `versions/` has one for each schema version. `schema.migration_config` configures them."""
