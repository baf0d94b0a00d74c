"""What a tuner server holds: simulated jobs in client processes against `lrpilot serve`, on SQLite and PostgreSQL."""
