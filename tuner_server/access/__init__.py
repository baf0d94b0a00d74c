"""Who may do what: projects, tokens, scopes."""
