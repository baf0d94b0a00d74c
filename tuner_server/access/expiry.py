"""When certificates end."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

from tuner_server.access.tls import TlsFiles, content
from tuner_server.core.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, slots=True)
class Expiry:
    """The end of what a file of certificates is good for."""

    setting: str
    """The setting that names the file."""
    path: Path
    end: datetime.datetime

    def days_left(self, now: datetime.datetime) -> float:
        """Days until the end; below zero: it is over."""
        return (self.end - now) / datetime.timedelta(days=1)

    def words(self, now: datetime.datetime) -> str:
        """When it ends, and how long that is."""
        days = self.days_left(now)
        when = f"{self.end:%Y-%m-%d %H:%M} UTC"
        return f"ends {when}, in {days:.0f} days" if days >= 0 else f"ended {when}, {-days:.0f} days ago"


def expiries(files: TlsFiles, now: datetime.datetime) -> list[Expiry]:
    """When the server's chain ends, and its clients' authorities, as far as there are some.

    A chain ends with the first of its certificates. Of several authorities, some of which may have ended as they were
    meant to, the next one that will end counts; if all have ended, the last one.

    Raises:
        InvalidInputError: a file can't be read, or has no certificates.
    """
    chain = _ends("tls_cert", files.cert)
    found = [Expiry("tls_cert", files.cert, min(chain))]
    if files.client_ca is not None:
        authorities = _ends("tls_client_ca", files.client_ca)
        coming = [end for end in authorities if end > now]
        found.append(Expiry("tls_client_ca", files.client_ca, min(coming, default=max(authorities))))
    return found


def _ends(setting: str, path: Path) -> Sequence[datetime.datetime]:
    from cryptography import x509  # only where there is TLS

    pem = content(setting, path)
    try:
        return [certificate.not_valid_after_utc for certificate in x509.load_pem_x509_certificates(pem)]
    except ValueError as error:
        raise InvalidInputError.of(setting, f"{path}: no PEM certificates") from error
