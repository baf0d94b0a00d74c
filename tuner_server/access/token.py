"""Bearer tokens: how they look, and what is kept of them."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
import secrets
from typing import Self

ID_BYTES = 6
"""Enough to tell the tokens of a deployment apart; an id is no secret."""
SECRET_BYTES = 32
"""256 bits from the system's generator: nothing is left to guess, so the hash need not be a slow one."""
_TEXT = re.compile(r"lrp_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
"""The prefix lets scanners for leaked secrets find a token in a text."""


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """A token in the hands of its owner: `lrp_<id>_<secret>`. It does not show its secret."""

    id: str
    secret: str = dataclasses.field(repr=False)

    @classmethod
    def new(cls) -> Self:
        """A token that nobody has seen."""
        return cls(secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The token that a text is, if it is one."""
        found = _TEXT.fullmatch(text)
        return cls(*found.groups()) if found else None

    @property
    def text(self) -> str:
        """What its owner sends. With the secret: not for logs."""
        return f"lrp_{self.id}_{self.secret}"

    @property
    def secret_hash(self) -> bytes:
        """What is stored of the secret.

        Plain SHA-256. Salt and slowness protect passwords, which people choose and attackers list; a list of 2^256
        random secrets can't be made, and every call pays for this.
        """
        return hashlib.sha256(self.secret.encode()).digest()

    def matches(self, secret_hash: bytes) -> bool:
        """Whether this is the token of that hash, in a time that tells nothing of how near it is."""
        return hmac.compare_digest(self.secret_hash, secret_hash)
