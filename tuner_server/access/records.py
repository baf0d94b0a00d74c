"""Projects and tokens, as they are kept."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Collection
from typing import Self

from lrpilot.wire.text.plain_text import refusal

from tuner_server.access.principal import Principal, Scope
from tuner_server.access.token import Token
from tuner_server.core.errors import InvalidInputError

PROJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""The rule for a DNS label, so that a project may have the name of the Kubernetes namespace whose jobs it holds."""
MAX_TOKEN_NAME = 100
"""Characters; enough to say whose it is and where it is used."""
MAX_ALIVE_JOBS = 2**31 - 1
"""What the column holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What a project may use; None: no limit."""

    max_alive_jobs: int | None = None
    max_calls_per_s: float | None = None
    """The limit counts in each server process by itself."""

    @classmethod
    def checked(cls, max_alive_jobs: int | None, max_calls_per_s: float | None) -> Self:
        """The limits that an operator gives. Raises: InvalidInputError: a limit that can't be one."""
        jobs, calls = max_alive_jobs, max_calls_per_s
        if jobs is not None and not 0 <= jobs <= MAX_ALIVE_JOBS:
            raise InvalidInputError.of("max_alive_jobs", f"0 to {MAX_ALIVE_JOBS}, or none for no limit; not {jobs}")
        if calls is not None and not (math.isfinite(calls) and calls > 0):
            raise InvalidInputError.of("max_calls_per_s", f"a number above 0, or none for no limit; not {calls:g}")
        return cls(jobs, calls)


@dataclasses.dataclass(frozen=True, slots=True)
class Project:
    """A group of people whose jobs belong together: no other project sees them."""

    name: str
    limits: Limits
    create_time: datetime.datetime

    @classmethod
    def checked(cls, name: str, limits: Limits, now: datetime.datetime) -> Self:
        """A new project. Raises: InvalidInputError: the name is none."""
        if not PROJECT_NAME.fullmatch(name):
            rule = "1 to 63 lower-case letters, digits and inner hyphens, as team-vision"
            raise InvalidInputError.of("project", f"{name!r} is no name of a project; give {rule}")
        return cls(name, limits, now)


@dataclasses.dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is known of a token: all but its secret."""

    id: str
    project: str
    name: str
    """What people call it."""
    secret_hash: bytes = dataclasses.field(repr=False)
    scopes: frozenset[Scope]
    create_time: datetime.datetime
    expire_time: datetime.datetime | None = None
    revoke_time: datetime.datetime | None = None

    @classmethod
    def issued(
        cls,
        token: Token,
        project: str,
        name: str,
        scopes: Collection[Scope],
        now: datetime.datetime,
        expire_time: datetime.datetime | None,
    ) -> Self:
        """The record of a new token. Raises: InvalidInputError: the name is none, or the token would allow nothing."""
        if len(name) > MAX_TOKEN_NAME:
            raise InvalidInputError.of("name", f"at most {MAX_TOKEN_NAME} characters, not {len(name)}")
        if why := refusal(name):
            raise InvalidInputError.of("name", why)
        if not scopes:
            raise InvalidInputError.of("scope", f"give at least one of {', '.join(Scope)}")
        return cls(token.id, project, name, token.secret_hash, frozenset(scopes), now, expire_time)


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """A token with what its project may use: all that a call is judged by."""

    token: TokenRecord
    limits: Limits

    @property
    def principal(self) -> Principal:
        """Whoever shows the token."""
        token = self.token
        return Principal(token.project, token.scopes, token.id, self.limits.max_calls_per_s)
