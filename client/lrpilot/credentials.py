"""How a client shows who it is, and how it knows its server."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Self

from lrpilot.arguments import shown, truth
from lrpilot.errors import ConfigError
from lrpilot.wire.bounded_file import SMALL_BYTES, read_whole
from lrpilot.wire.loopback import is_loopback

TOKEN = "LRPILOT_TOKEN"
TOKEN_FILE = "LRPILOT_TOKEN_FILE"
TLS = "LRPILOT_TLS"
CA_FILE = "LRPILOT_TLS_CA"
CERT_FILE = "LRPILOT_CLIENT_CERT"
KEY_FILE = "LRPILOT_CLIENT_KEY"
INSECURE = "LRPILOT_CLIENT_INSECURE"
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A token, and TLS. A token goes nowhere unencrypted but to this machine, unless `insecure` says that it may.

    Files are read when a connection is made; that of the token again for each call, so that it can be renewed within a
    run.
    """

    token: str | None = dataclasses.field(default=None, repr=False)
    """Shown with every call: `lrp_...`."""
    token_file: str | os.PathLike[str] | None = None
    """Holds the token, in place of `token`."""
    tls: bool = False
    """Whether to use TLS though no file is named: then the authorities that come with gRPC are trusted."""
    ca_file: str | os.PathLike[str] | None = None
    """PEM: the authorities that are trusted instead. Implies TLS, as the other files do."""
    cert_file: str | os.PathLike[str] | None = None
    """PEM: the certificate to show, for mutual TLS."""
    key_file: str | os.PathLike[str] | None = None
    """PEM: its key."""
    insecure: bool = False
    """Whether a token may be sent unencrypted to another machine."""

    def __post_init__(self) -> None:
        """Raises: ConfigError: what is given makes no sense."""
        for field in ("tls", "insecure"):
            truth(f"credentials: {field}", getattr(self, field))
        for field in ("token_file", "ca_file", "cert_file", "key_file"):
            if (path := getattr(self, field)) is not None and not isinstance(path, str | os.PathLike):
                raise ConfigError(f"credentials: {field}: {shown(path)}; give the name of a file")
        if self.token is not None and self.token_file is not None:
            raise ConfigError("credentials: give token or token_file, not both")
        if self.token is not None:
            _checked_token(self.token, "token")
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("credentials: cert_file and key_file belong together")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Those that `LRPILOT_*` variables give; an empty one counts as none.

        Raises:
            ConfigError: a variable makes no sense.
        """

        def given(name: str) -> str | None:
            return environment.get(name) or None

        if given(TOKEN) and given(TOKEN_FILE):
            raise ConfigError(f"{TOKEN} and {TOKEN_FILE} are both set; which of them counts?")
        return cls(
            token=given(TOKEN),
            token_file=given(TOKEN_FILE),
            tls=_switch(TLS, environment),
            ca_file=given(CA_FILE),
            cert_file=given(CERT_FILE),
            key_file=given(KEY_FILE),
            insecure=_switch(INSECURE, environment),
        )

    @property
    def has_token(self) -> bool:
        """Whether calls show a token."""
        return self.token is not None or self.token_file is not None

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def check(self, target: str) -> None:
        """Raises: ConfigError: the token would go to `target` unencrypted."""
        if self.has_token and not (self.uses_tls or self.insecure or is_loopback(target)):
            raise ConfigError(
                f"credentials: the token would be sent to {target} unencrypted: set {CA_FILE} or {TLS}=1 "
                f"(ca_file, tls), or {INSECURE}=1 (insecure) if the network is protected in another way"
            )

    def current_token(self) -> str | None:
        """The token to show now. Raises: ConfigError: its file can't be read, or holds none."""
        if self.token_file is None:
            return self.token
        return _checked_token(_content("token_file", self.token_file).decode("latin-1").strip(), "token_file")

    def tls_files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """What authorities', key's and certificate's file hold. Raises: ConfigError: one can't be read."""
        return (
            None if self.ca_file is None else _content("ca_file", self.ca_file),
            None if self.key_file is None else _content("key_file", self.key_file),
            None if self.cert_file is None else _content("cert_file", self.cert_file),
        )


def _checked_token(token: str, field: str) -> str:
    """The token. Raises: ConfigError: gRPC can't send it; the message does not repeat it."""
    if not isinstance(token, str) or not token or not all("!" <= character <= "~" for character in token):
        raise ConfigError(f"credentials: {field} holds no token, which is lrp_... without blanks")
    return token


def _content(field: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return read_whole(path, SMALL_BYTES)
    except OSError as error:
        raise ConfigError(f"credentials: {field} {os.fspath(path)}: {error.strerror}") from None


def _switch(name: str, environment: Mapping[str, str]) -> bool:
    value = environment.get(name, "").strip().lower()
    if value in _TRUE | _FALSE:
        return value in _TRUE
    raise ConfigError(f"{name}: {value!r} is neither 1 nor 0")
