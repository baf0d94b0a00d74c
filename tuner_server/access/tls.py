"""The certificates that a server shows, and those that it asks for."""

from __future__ import annotations

import dataclasses
import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import grpc
import structlog
from lrpilot.wire.bounded_file import SMALL_BYTES, read_whole

from tuner_server.core.errors import InvalidInputError, TunerError

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class TlsFiles:
    """Three PEM files: the server's chain and key, and the authorities whose clients are let in (None: all are)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold.

        Raises:
            InvalidInputError: one can't be used; the message names the setting.
        """
        key, cert = content("tls_key", self.key), content("tls_cert", self.cert)
        client_ca = None if self.client_ca is None else content("tls_client_ca", self.client_ca)
        if self.key.stat().st_mode & stat.S_IRWXO:
            # As ssh does. The group may read it: that is how Kubernetes gives a secret to a user who is not root.
            raise InvalidInputError.of("tls_key", f"{self.key} can be read by all users: chmod o= {self.key}")
        _check_pair(self.cert, self.key)
        if self.client_ca is not None:
            _check_authorities(self.client_ca)
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=client_ca)

    def context(self) -> ssl.SSLContext:
        """The files, for servers that are not gRPC's. Raises: as `read`; OSError: a file changed meanwhile."""
        self.read()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key, password="")
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What changes when a file is written or replaced. Raises: OSError."""
        paths = (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)
        return tuple((found.st_mtime_ns, found.st_ino, found.st_size) for found in map(os.stat, paths))


class _RenewingFiles(Generic[T]):
    """What is made of the files. It is asked for at every new connection, and made anew when the files have changed."""

    def __init__(self, files: TlsFiles, read: Callable[[TlsFiles], T]) -> None:
        self._files, self._read = files, read
        files.read()  # before `stamp`, whose errors name no setting
        self._stamp = files.stamp()
        self.latest = read(files)

    def renew(self) -> T | None:
        """What `latest` is from now on; None: the files are the same still, or what they hold can't be used."""
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            self.latest = self._read(self._files)
        except (OSError, TunerError) as error:
            # In the middle of a renewal the files need not fit each other: the next connection looks again.
            self._stamp = ()
            log.warning("certificates can't be read again; the former ones are kept", why=str(error))
            return None
        log.info("certificates were read again")
        return self.latest


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """TLS for a server's port; mutual if there are `client_ca`. Renewed files are used without a restart.

    Raises:
        InvalidInputError: a file can't be used; the message names the setting.
    """
    renewed = _RenewingFiles(files, TlsFiles.read)
    return grpc.dynamic_ssl_server_credentials(
        renewed.latest,
        renewed.renew,  # type: ignore[arg-type]  # the stubs don't know that None means no change
        require_client_authentication=files.client_ca is not None,
    )


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS for the port of a server that is not gRPC's. Renewed files are used without a restart.

    Raises:
        InvalidInputError: a file can't be used; the message names the setting.
        OSError: a file changed while it was read.
    """
    renewed = _RenewingFiles(files, TlsFiles.context)

    def handshake(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        renewed.renew()
        connection.context = renewed.latest

    # Called for every client, whether it names a server or not.
    first = renewed.latest
    first.sni_callback = handshake
    return first


def content(setting: str, path: Path) -> bytes:
    """What one of the files holds, which is read again whenever it may have been renewed. Raises: InvalidInputError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would have its reader wait, and with it all connections
            raise InvalidInputError.of(setting, f"{path}: it is no regular file")
        return read_whole(path, SMALL_BYTES)
    except OSError as error:
        raise InvalidInputError.of(setting, f"{path}: {error.strerror}") from error


def _check_pair(cert: Path, key: Path) -> None:
    # gRPC itself would take them, and then refuse every connection.
    try:
        # An empty password: without one OpenSSL would ask for it at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        why = error.reason or "no certificate with its key, both PEM and without a password"
        raise InvalidInputError.of("tls_cert", f"{cert} and {key} (tls_key) can't be used: {why}") from error


def _check_authorities(client_ca: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise InvalidInputError.of("tls_client_ca", f"{client_ca}: no PEM certificates") from error
