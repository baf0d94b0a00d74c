"""What SIGHUP has a server read again, while it serves.

Certificates, tokens and projects are read when they change, whether there is a signal or not. Of the settings only the
level of the log can change in a process that runs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import structlog

from tuner_server.access.tls import TlsFiles
from tuner_server.core.errors import InvalidInputError
from tuner_server.ops import logs
from tuner_server.process.settings import ServerSettings, load

LIVE = ("log_level",)
"""The settings that take effect without another start."""

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class SettingsSource:
    """Where the settings of a process come from, so that they can be read again."""

    flags: Mapping[str, Any]
    """Those of the command line, by name; None where one was not given."""
    first: ServerSettings
    """What they came to at the start."""

    def read(self) -> ServerSettings:
        """The settings as they are now. Raises: InvalidInputError."""
        return load(self.flags, os.environ).settings


class Reloading:
    """Reads a process's settings again, as often as it is told to."""

    def __init__(self, settings: ServerSettings, source: SettingsSource) -> None:
        """`settings` are those that the process runs with, which may have been completed since the start."""
        self._settings, self._source = settings, source

    def reload(self, *, tell: bool) -> ServerSettings:
        """Takes up what can be taken up.

        Args:
            tell: whether the log has what was found, of which one process of several tells.

        Returns:
            The settings that the process runs with from now on.
        """
        try:
            found = self._source.read()
        except InvalidInputError as error:
            if tell:
                log.error("settings can't be read again; the former ones are kept", why=str(error))
            return self._settings
        self._settings = self._settings.model_copy(update={name: getattr(found, name) for name in LIVE})
        logs.set_level(self._settings.log_level)
        if tell:
            self._tell(found)
        return self._settings

    def _tell(self, found: ServerSettings) -> None:
        for name in ServerSettings.model_fields:
            if name not in LIVE and getattr(found, name) != getattr(self._source.first, name):
                log.warning("setting has changed, and takes effect with the next start", setting=name)
        if (files := tls_files(self._settings)) is not None:
            try:
                files.context()
            except (OSError, InvalidInputError) as error:
                log.error("certificates can't be used; the former ones are kept", why=str(error))
        log.info("settings were read again", log_level=self._settings.log_level)


def tls_files(settings: ServerSettings) -> TlsFiles | None:
    """The files of certificates that settings name; None: there are none."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
