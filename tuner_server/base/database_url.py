"""The URL of a database, read without a word about the password that may be in it."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from typing import NoReturn, Self

from tuner_server.core.errors import InvalidInputError

EXAMPLES = "give sqlite:///path/to/file.db or postgresql://user@host/name"
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
"""Schemes that mean PostgreSQL: its own two, and SQLAlchemy's."""
_QUOTING = (
    "in a user's name, a password or a database's name these are written as %XX: "
    "@ %40, : %3A, / %2F, ? %3F, # %23, % %25"
)
_HOST = re.compile(r"[\w.-]*|\[[0-9A-Fa-f:.%]+\]|%2F[\w.%-]*", re.IGNORECASE)
"""A name or an IPv4 address, an IPv6 address in brackets, or the directory of a Unix socket, quoted."""
_PORT = re.compile(r"[0-9]{0,5}")
_DEFAULT_PORT = "5432"


@dataclasses.dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A URL that was read."""

    label: str
    """The URL for messages of ours: without its password and its options, which may hold another."""
    file: str | None
    """The path of a SQLite file; None: it is a PostgreSQL."""
    parameters: Mapping[str, str] = dataclasses.field(repr=False)
    """The parameters of a connection to PostgreSQL, as libpq names them; none of a SQLite file."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST:PORT/NAME?PARAMETER=VALUE`.

        There may be several hosts, with commas between, of which the first is used that answers.

        Raises:
            InvalidInputError: it is no such URL. Nothing of it is repeated but its scheme.
        """
        scheme, separator, rest = text.partition("://")
        if not separator or not re.fullmatch(r"[a-z][a-z0-9+]*", scheme):
            _refuse(f"not a database URL; {EXAMPLES}")
        if not text.isprintable():
            _refuse("the URL has characters that can't be printed")
        if scheme == "sqlite":
            return cls(text, _file(rest), {})
        if scheme not in _POSTGRESQL:
            _refuse(f"{scheme} databases can't be used; {EXAMPLES}")
        parameters = _parameters(rest)
        return cls(_label(parameters), None, parameters)


def _refuse(description: str) -> NoReturn:
    raise InvalidInputError.of("db", description)


def _file(rest: str) -> str:
    # Every connection to SQLite's memory would be a database of its own.
    file = rest.removeprefix("/")
    if not rest.startswith("/") or file in ("", ":memory:") or "?" in file:
        _refuse(f"SQLite takes a file, with no options; {EXAMPLES}")
    return file


def _parameters(rest: str) -> dict[str, str]:
    """What stands behind `postgresql://`, as libpq's parameters."""
    who, at, where = rest.rpartition("@")
    # Anything else could be read in two ways, and one of them would take a part of the password for a host.
    if any(reserved in who for reserved in "@/?"):
        _refuse(f"the URL can't be read; {_QUOTING}")
    path, _, query = where.partition("?")
    hosts, _, name = path.partition("/")
    user, colon, password = who.partition(":")
    found = _hosts(hosts)
    if at and user:
        found["user"] = _unquoted(user)
    if colon:
        found["password"] = _unquoted(password)
    if name:
        found["dbname"] = _unquoted(name)
    for item in filter(None, query.split("&")):
        key, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[a-z_]+", key):
            _refuse("the parameters behind ? are NAME=VALUE, with & between")
        found[key] = _unquoted(value)
    return found


def _hosts(text: str) -> dict[str, str]:
    """Hosts and their ports, as libpq's lists of them."""
    names, ports = [], []
    for one in text.split(","):
        name, port = one, ""
        if not one.endswith("]"):
            front, colon, behind = one.rpartition(":")
            name, port = (front, behind) if colon else (one, "")
        if not _HOST.fullmatch(name) or not _PORT.fullmatch(port):
            _refuse(f"the host and its port can't be read; {_QUOTING}")
        names.append(_unquoted(name).removeprefix("[").removesuffix("]"))
        ports.append(port)
    found = {}
    if any(names):
        found["host"] = ",".join(names)
    if any(ports):
        found["port"] = ",".join(port or _DEFAULT_PORT for port in ports)
    return found


def _unquoted(text: str) -> str:
    try:
        if re.search(r"%(?![0-9A-Fa-f]{2})", text):
            raise ValueError
        found = urllib.parse.unquote(text, errors="strict")
        if not found.isprintable():
            raise ValueError
    except ValueError:
        # `from None`: the error that was caught may repeat a password.
        raise InvalidInputError.of("db", f"a % in the URL can't be read; {_QUOTING}") from None
    return found


def _label(parameters: Mapping[str, str]) -> str:
    user = urllib.parse.quote(parameters.get("user", ""), safe="")
    secret = ":***" if "password" in parameters else ""
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",") if "port" in parameters else [""] * len(hosts)
    places = [
        (f"[{host}]" if ":" in host else urllib.parse.quote(host, safe="")) + (f":{port}" if port else "")
        for host, port in zip(hosts, ports, strict=False)
    ]
    name = urllib.parse.quote(parameters.get("dbname", ""), safe="")
    return f"postgresql://{user}{secret}{'@' if user or secret else ''}{','.join(places)}{'/' if name else ''}{name}"
