"""The principal of the call that is being served."""

from __future__ import annotations

import contextvars

from tuner_server.access.principal import ANYONE, Principal

CALLER: contextvars.ContextVar[Principal] = contextvars.ContextVar("caller", default=ANYONE)
"""Set by the interceptor that authenticates; each call runs in a context of its own."""
