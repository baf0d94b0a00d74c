"""Connections to PostgreSQL, directly or through a pooler such as PgBouncer, in whatever mode.

A pooler may give every transaction another session of PostgreSQL. Where one is in between nothing of a session is
relied upon: what settings a transaction needs it brings along, in the same message as its BEGIN, and there are no
prepared statements, whose names belong to a session. A session that is ours alone has both once and for all.
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Mapping
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.abc import RV, PQGen

from tuner_server.base.database_url import DatabaseUrl
from tuner_server.core.errors import InvalidInputError

TRANSACTION_TIMEOUT_S = 3.0
"""The longest that a transaction takes, its answers included."""
PING_TIMEOUT_S = 1.0
"""How long a connection that lay idle has to show that it works."""
APPLICATION = "lrpilot"
"""What PostgreSQL calls our sessions, unless the URL or the environment gives another name."""

LIBPQ_DEFAULTS = {
    "connect_timeout": "2",
    # An idle connection to a machine that is gone is found out before somebody needs it.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "fallback_application_name": APPLICATION,
}
"""Parameters of a connection that the URL doesn't give."""
KEEPALIVE = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "2"}
"""How soon PostgreSQL finds out that our machine is gone: settings of a session, where it is ours alone."""
LIMITS = {
    "lock_timeout": "2s",
    # Nobody waits for the result of a statement that takes longer.
    "statement_timeout": f"{TRANSACTION_TIMEOUT_S:g}s",
    # A server that freezes or vanishes within a transaction would hold its locks for two hours.
    "idle_in_transaction_session_timeout": "10s",
}
"""PostgreSQL's settings of each transaction; those in the `options` of the URL win."""
FORMS = {"DateStyle": "ISO", "extra_float_digits": "1"}
"""How PostgreSQL writes what it answers with: times that can be read, and numbers with all their digits, whatever is
usual in the database or the environment."""
ENCODING = {"client_encoding": "UTF8"}
"""The parameter of a connection by which names go as they are."""
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
}
_TROUBLES = {
    "08": "it can't be reached",
    "28": "it refuses our user",
    "22P05": "it lacks a character of a name or a note; make it with the encoding UTF8",
    "25006": "it is read-only",
    "53100": "its disk is full",
    "53300": "it has too many connections",
    "53": "it has no memory left",
    "55P03": "it is locked",
    "57P": "it is stopping or starting",
    "57014": "it took too long",
    "40": "it is locked",
    "XX001": "it is corrupt",
    "XX002": "it is corrupt",
}
"""Kinds of trouble, by the beginning of PostgreSQL's SQLSTATE."""
_NUMBERS = ("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "port")


class Session(psycopg.Connection[Any]):
    """A connection that waits no longer than its transaction may take.

    PostgreSQL's own time limits end with the network, or when its machine stands still; TCP's end where a pooler or a
    proxy in between goes on answering.
    """

    deadline: float | None = None
    """The end of the transaction on the monotonic clock; None: there is no transaction."""
    pooled = True
    """Whether a pooler is in between, so that the session is ours for a transaction at most."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """See `psycopg.Connection`. Raises: psycopg.OperationalError: no answer in time; the connection is closed."""
        now = time.monotonic()
        deadline = now + PING_TIMEOUT_S if self.deadline is None else self.deadline
        if timeout is None and deadline < math.inf:
            timeout = max(deadline - now, 0.0)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if time.monotonic() < deadline:
                raise
            self.close()  # what it would still answer is for a question that nobody asks any more
            raise psycopg.OperationalError("no answer in time") from error

    def settle(self, settings: Mapping[str, str]) -> None:
        """Looks whether the session is our own, and gives it settings if it is. Raises: psycopg.Error."""
        self.deadline = time.monotonic() + TRANSACTION_TIMEOUT_S
        row = self.execute("SELECT pg_catalog.pg_backend_pid()", prepare=False).fetchone()
        # A pooler has told another process id than that of the session which we have now.
        self.pooled = row is None or row[0] != self.info.backend_pid
        if self.pooled:
            self.prepare_threshold = None
        else:
            self.execute(_set(settings, local=False), prepare=False)
            self.autocommit = False
        self.deadline = None

    def begin(self) -> None:
        """Says that a transaction begins, from which on it has its time."""
        self.deadline = time.monotonic() + TRANSACTION_TIMEOUT_S

    def maintain(self) -> None:
        """Takes statements without transactions and limits from now on; afterwards the connection is thrown away."""
        self.deadline = math.inf
        if not self.pooled:
            self.autocommit = True
            self.execute(_set(dict.fromkeys(LIMITS, "0"), local=False), prepare=False)


def connection_parameters(url: DatabaseUrl) -> dict[str, str]:
    """What libpq is to be told.

    Raises:
        InvalidInputError: a parameter is none of libpq's, or has a value that it can't have.
    """
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    for name, value in url.parameters.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; is {near[0]} meant?" if near else ""
            raise InvalidInputError.of("db", f"the URL's parameter {name} is none of a PostgreSQL connection{meant}")
        choices = _CHOICES.get(name)
        if choices is not None and value not in choices:
            raise InvalidInputError.of("db", f"the URL's parameter {name} can be {', '.join(choices)}")
        if name in _NUMBERS and not all(part.removeprefix("-").isdecimal() for part in value.split(",")):
            raise InvalidInputError.of("db", f"the URL's parameter {name} must be a whole number")
    return {**LIBPQ_DEFAULTS, **url.parameters, **ENCODING}


def session_settings(options: str) -> dict[str, str]:
    """The settings in libpq's parameter `options`, such as `-c search_path=tuner`.

    Raises:
        InvalidInputError: something else is in it.
    """
    found: dict[str, str] = {}
    words = _words(options)
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            word = words.pop(0)
        elif word.startswith(("-c", "--")):
            word = word[2:]
        else:
            word = ""
        name, equals, value = word.partition("=")
        if not equals or not name.replace("_", "").replace(".", "").replace("-", "").isalnum():
            raise InvalidInputError.of("db", "the URL's parameter options takes -c NAME=VALUE alone (a blank is %20)")
        found[name.replace("-", "_")] = value
    return found


def _words(options: str) -> list[str]:
    """Splits as PostgreSQL does: at blanks, unless a backslash is before them."""
    words, word, escaped = [], "", False
    for character in options:
        if escaped or character not in "\\ ":
            word, escaped = word + character, False
        elif character == "\\":
            escaped = True
        else:
            words.append(word)
            word = ""
    return [word for word in (*words, word) if word]


def postgresql_engine(url: DatabaseUrl, pool_size: int, pool_timeout_s: float) -> sa.Engine:
    """An engine whose transactions have limits. Raises: InvalidInputError: the URL's parameters are not right."""
    connecting = connection_parameters(url)
    # Not sent: PgBouncer refuses what it doesn't know, or leaves it out.
    settings = LIMITS | session_settings(connecting.pop("options", "")) | FORMS
    engine = sa.create_engine(
        "postgresql+psycopg://",
        # A connection that died in the pool (a restart, a firewall) is replaced and not handed to a request.
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_timeout_s,
    )

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, _arguments: object, parameters: dict[str, Any]) -> Session:
        session = Session.connect(**{**parameters, **connecting, "autocommit": True})
        try:
            session.settle(KEEPALIVE | settings)
        except BaseException:
            session.close()
            raise
        return session

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        session = connection.connection.driver_connection
        assert isinstance(session, Session)
        migrates = connection.get_execution_options().get("migrates", False)
        session.begin()
        wanted = settings if session.pooled else {}
        if migrates:
            session.deadline = math.inf
            wanted = wanted | dict.fromkeys(LIMITS, "0")
        if wanted:
            # With no parameters it is one message, and one answer.
            begins = "BEGIN; " if session.pooled else ""  # otherwise the driver says it
            said = begins + _set(wanted, local=True).decode()
            connection.exec_driver_sql(said, execution_options={"no_parameters": True})

    @sa.event.listens_for(engine, "checkin")
    def checkin(session: Session | None, _record: object) -> None:
        if session is not None:  # None: it is closed
            session.deadline = None

    return engine


def _set(settings: Mapping[str, str], *, local: bool) -> bytes:
    """Gives settings to a transaction or a session. `set_config` reads lists of names, which SET would take for one."""
    if local:  # a default is for transactions that have not begun
        settings = {name.replace("default_transaction_", "transaction_"): value for name, value in settings.items()}
    calls = (
        sql.SQL("pg_catalog.set_config({}, {}, {})").format(sql.Literal(name), sql.Literal(value), sql.Literal(local))
        for name, value in settings.items()
    )
    return sql.SQL("SELECT {}").format(sql.SQL(", ").join(calls)).as_bytes(None)


def is_corrupt(error: BaseException | None) -> bool:
    """Whether PostgreSQL has met pages that can't be right."""
    return isinstance(error, psycopg.errors.DataCorrupted | psycopg.errors.IndexCorrupted)


def what_is_wrong(error: BaseException | None) -> str:
    """The kind of trouble in a few words, without addresses and names. Empty: it is none that these would help with."""
    if not isinstance(error, psycopg.Error):
        return ""
    if error.sqlstate is None:
        return "it can't be reached"
    return next((what for state, what in _TROUBLES.items() if error.sqlstate.startswith(state)), "")
