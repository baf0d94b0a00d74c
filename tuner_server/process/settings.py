"""What a server can be told: each setting once, with its default and the words that describe it.

A flag wins over the environment, that over a TOML file, that over the default.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import tomllib
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
from lrpilot.wire.bounded_file import SMALL_BYTES, read_whole
from lrpilot.wire.loopback import is_loopback
from pydantic import Field

from tuner_server.base.address import Address
from tuner_server.base.database_url import EXAMPLES, DatabaseUrl
from tuner_server.base.encoding import is_text
from tuner_server.core.errors import FieldViolation, InvalidInputError
from tuner_server.core.job.life import ABANDONED_AFTER_S, SILENT_AFTER_S, LifeLimits
from tuner_server.process.environment import own_data_directory

PREFIX = "LRPILOT_"
"""The beginning of the names of the environment's variables."""
CONFIG = "config"
"""The name of what gives the file: a flag, or, in capitals behind the prefix, a variable of the environment."""
MAX_WORKERS = 64
"""Far more than one machine's database has use for; a slip of the finger would take all memory."""
MAX_POOL_SIZE = 200
"""More than a process has threads."""
OWN_PATHS = ("compare", "events", "jobs", "login", "logout", "static")
"""What the dashboard's own paths begin with."""
LONGEST_SILENCE_S = 10 * 366 * 86_400.0
"""Ten years of seconds: times that far apart can still be told from one another everywhere."""
_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+", re.ASCII)


def default_db() -> str:
    """The database of jobs without a shared server, in the user's own data directory. Raises: InvalidInputError."""
    return f"sqlite:///{own_data_directory()}/lrpilot.db"


def _parts(value: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(part for part in map(str.strip, value.split(",")) if part)


def _default_auth(fields: dict[str, Any]) -> Literal["none", "tokens"]:
    return "none" if is_loopback(fields.get("listen", "")) else "tokens"


class ServerSettings(pydantic.BaseModel):
    """The settings of `lrpilot serve`. A name here is a key in the file, and a flag with dashes."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    listen: str = "127.0.0.1:50051"
    """HOST:PORT for training jobs, over gRPC; port 0 takes a free one."""
    db: str = Field(default_factory=default_db)
    """sqlite:///FILE or postgresql://USER@HOST/NAME; without it a file of your own."""
    db_pool_size: int = Field(16, ge=2, le=MAX_POOL_SIZE)
    """Connections to the database that each worker holds at most; two more look up tokens where these are asked for."""
    workers: int = Field(1, ge=1, le=MAX_WORKERS)
    """Processes that serve the port."""
    grace_s: float = Field(10.0, ge=0, allow_inf_nan=False)
    """Seconds that running calls get at the end."""
    metrics: str | None = None
    """HOST:PORT for operators, over plain HTTP: /metrics, /livez and /readyz; off by default."""
    http: str | None = None
    """HOST:PORT of the dashboard, for browsers; off by default."""
    base_path: str = ""
    """The path under which a proxy serves the dashboard, as /lrpilot; the proxy may pass it on or strip it."""
    trusted_proxies: str = ""
    """Addresses and networks whose X-Forwarded-For, -Proto and -Host the dashboard believes, with commas between."""
    tls_cert: Path | None = None
    """The server's certificate chain, a PEM file."""
    tls_key: Path | None = Field(None, validate_default=True)
    """The key of the certificate, a PEM file."""
    tls_client_ca: Path | None = None
    """Authorities whose clients are let in, a PEM file; without it clients need no certificate."""
    auth: Literal["none", "tokens"] = Field(default_factory=_default_auth)
    """Whether calls need a token: none or tokens; by default tokens, unless the address is on loopback."""
    insecure: bool = False
    """Serve others without TLS or tokens: the network is protected in another way."""
    log_format: Literal["logfmt", "json"] = "logfmt"
    """How the log on standard error is written: logfmt or json."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged: debug, info, warning or error."""
    otlp_endpoint: str | None = None
    """http://HOST:PORT of an OpenTelemetry collector (OTLP over gRPC) for traces; off by default."""
    silent_after_s: float = Field(SILENT_AFTER_S, gt=0, allow_inf_nan=False)
    """Seconds without a sign of its client (one a minute is usual) after which a job is silent, and in no quota."""
    abandoned_after_s: float = Field(ABANDONED_AFTER_S, allow_inf_nan=False, validate_default=True)
    """Seconds without a sign of its client after which a job is abandoned, and can be pruned."""
    exit_with_stdin: bool = False
    """Stop when standard input closes, as its owner's death does."""

    @pydantic.field_validator("listen", "metrics", "http")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            Address.parse(value)
        return value

    @pydantic.field_validator("otlp_endpoint")
    @classmethod
    def _is_collector(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                url = urllib.parse.urlsplit(value)
                right = url.scheme in ("http", "https") and url.hostname and url.port != 0
            except ValueError:  # brackets without an address in them, a port that is none
                right = False
            if not right:
                raise ValueError("must be http://HOST:PORT or https://HOST:PORT, as http://127.0.0.1:4317")
        return value

    @pydantic.field_validator("base_path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        path = value.rstrip("/")
        if path and not _BASE_PATH.fullmatch(path):
            raise ValueError("give a path of letters, digits, hyphens, dots and underscores, as /lrpilot")
        if path.split("/")[1:2] and path.split("/")[1] in OWN_PATHS:
            raise ValueError(f"it must not begin as a page of the dashboard does ({', '.join(OWN_PATHS)})")
        return path

    @pydantic.field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for part in _parts(value):
            try:
                ipaddress.ip_network(part)
            except ValueError as error:
                raise ValueError(f"{error}; give addresses and networks, as 127.0.0.1,10.0.0.0/8") from error
        return value

    @pydantic.field_validator("tls_key")
    @classmethod
    def _has_its_certificate(cls, value: Path | None, info: pydantic.ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_cert") is None):
            raise ValueError("tls_cert and tls_key are given together or not at all")
        return value

    @pydantic.field_validator("tls_client_ca")
    @classmethod
    def _has_tls(cls, value: Path | None, info: pydantic.ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert") is None:
            raise ValueError("needs tls_cert and tls_key: clients show certificates over TLS only")
        return value

    @pydantic.field_validator("abandoned_after_s")
    @classmethod
    def _comes_after_silence(cls, value: float, info: pydantic.ValidationInfo) -> float:
        silent = info.data.get("silent_after_s", 0.0)
        if not silent <= value <= LONGEST_SILENCE_S:
            raise ValueError(f"from silent_after_s ({silent:g}) to {LONGEST_SILENCE_S:g}")
        return value

    @property
    def life_limits(self) -> LifeLimits:
        """How long a sign of a client counts."""
        return LifeLimits.of_seconds(self.silent_after_s, self.abandoned_after_s)

    @property
    def proxies(self) -> tuple[str, ...]:
        """The addresses and networks of `trusted_proxies`."""
        return _parts(self.trusted_proxies)

    def shown(self) -> dict[str, Any]:
        """The values as JSON knows them, without passwords."""
        values = self.model_dump(mode="json")
        values["db"] = DatabaseUrl.parse(self.db).label
        return values


@dataclasses.dataclass(frozen=True, slots=True)
class EffectiveSettings:
    """Settings, and where each came from."""

    settings: ServerSettings
    origins: Mapping[str, str]


def load(flags: Mapping[str, Any], environment: Mapping[str, str]) -> EffectiveSettings:
    """Puts the settings together.

    Args:
        flags: their values by name; None where a flag was not given. `config` among them names a file.
        environment: the variables, as in `os.environ`; empty ones count as not set.

    Raises:
        InvalidInputError: the file can't be read or has keys that are no settings, or a value is refused.
    """
    names = ServerSettings.model_fields
    given = {name: value for name, value in flags.items() if value is not None}
    variables = {name: value for name in (CONFIG, *names) if (value := environment.get(variable(name)))}
    by_flag, by_variable = given.pop(CONFIG, None), variables.pop(CONFIG, None)
    path = by_flag or by_variable
    layers: list[tuple[dict[str, Any], Callable[[str], str]]] = [
        (_read(Path(path)) if path else {}, lambda _name: f"file {path}"),
        (variables, lambda name: f"environment {variable(name)}"),
        (given, lambda name: f"flag {flag(name)}"),
    ]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(names, "default")
    for layer, origin in layers:
        if unreadable := [name for name, value in layer.items() if not is_text(value)]:
            raise InvalidInputError.of(unreadable[0], f"must be UTF-8 ({origin(unreadable[0])})")
        values |= layer
        origins |= {name: origin(name) for name in layer}
    try:
        settings = ServerSettings.model_validate(values)
        DatabaseUrl.parse(settings.db)
    except pydantic.ValidationError as error:
        raise _refused(error, origins) from error
    except InvalidInputError as error:
        [violation] = error.violations
        raise InvalidInputError([_placed(violation, origins)]) from None
    return EffectiveSettings(settings, origins)


def variable(name: str) -> str:
    """A setting's name in the environment."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """A setting's name on the command line."""
    return "--" + name.replace("_", "-")


def _read(path: Path) -> dict[str, Any]:
    """A file's settings. Raises: InvalidInputError."""
    try:
        values = tomllib.loads(read_whole(path, SMALL_BYTES).decode("utf-8"))
    except OSError as error:
        raise InvalidInputError.of(CONFIG, f"{path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise InvalidInputError.of(CONFIG, f"{path}: {error}") from error
    except RecursionError:
        raise InvalidInputError.of(CONFIG, f"{path}: it is nested too deeply") from None
    known = ServerSettings.model_fields
    if unknown := sorted(values.keys() - known.keys()):
        description = f"{path}: no setting is named {', '.join(unknown)}; there are {', '.join(known)}"
        raise InvalidInputError.of(CONFIG, description)
    return values


def _refused(error: pydantic.ValidationError, origins: Mapping[str, str]) -> InvalidInputError:
    found = []
    for item, violation in zip(error.errors(), InvalidInputError.from_pydantic(error).violations, strict=True):
        if item["type"] == "default_factory_not_called":
            continue  # the default depends on another setting, which is the one that was refused
        if item["loc"][:1] == ("db",):  # what was given may have a password in it
            violation = FieldViolation("db", f"must be a text; {EXAMPLES}")
        found.append(_placed(violation, origins))
    return InvalidInputError(found)


def _placed(violation: FieldViolation, origins: Mapping[str, str]) -> FieldViolation:
    """What is wrong, and where it was given."""
    origin = origins.get(violation.field, "default")
    where = "" if origin == "default" else f" ({origin})"
    return FieldViolation(violation.field, violation.description + where)
