"""Which addresses a server may listen on without protection."""

from __future__ import annotations

from lrpilot.wire.loopback import is_loopback

from tuner_server.core.errors import InvalidInputError


def check_exposure(setting: str, listen: str, *, tls: bool, auth: bool, insecure: bool) -> None:
    """Refuses to serve others without TLS and tokens.

    Args:
        setting: the name of the setting that gives the address.
        listen: HOST:PORT.
        tls: whether there is a certificate.
        auth: whether calls need a token.
        insecure: whether the user said that this is wanted.

    Raises:
        InvalidInputError: it names what is missing.
    """
    missing = [flag for flag, there in (("--tls-cert and --tls-key", tls), ("--auth tokens", auth)) if not there]
    if missing and not insecure and not is_loopback(listen):
        raise InvalidInputError.of(
            setting,
            f"{listen} can be reached by others: give {' and '.join(missing)}, "
            "or --insecure if the network is protected in another way",
        )
