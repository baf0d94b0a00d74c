"""What operators hear of the ends of certificates: a metric, and lines in the log."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tuner_server.access.expiry import Expiry, expiries
from tuner_server.access.tls import TlsFiles
from tuner_server.base.clock import utc_now
from tuner_server.core.errors import InvalidInputError

SOON_DAYS, URGENT_DAYS = 30, 7
"""Days before the end from which the log warns, and from which it calls it an error."""

log = structlog.get_logger(__name__)


class CertificateEnds(Collector):
    """The ends of the certificates of some files, as they are when somebody asks; of bad files, as they were before."""

    def __init__(self, files: TlsFiles, now: Callable[[], datetime.datetime] = utc_now) -> None:
        """Reads `files`."""
        self._files, self._now = files, now
        self._latest: list[Expiry] = []

    def collect(self) -> Iterator[Metric]:
        """A time for each file."""
        gauge = GaugeMetricFamily(
            "lrpilot_tls_certificate_expiry_timestamp_seconds",
            "When certificates end, since the epoch: the server's chain, and its clients' authorities.",
            labels=["file"],
        )
        for expiry in self._read():
            gauge.add_metric([expiry.setting], expiry.end.timestamp())
        yield gauge

    def warn(self) -> None:
        """Writes a line for each file whose certificates end soon, or have ended."""
        for expiry in self._read():
            days = expiry.days_left(self._now())
            if days < SOON_DAYS:
                write = log.error if days < URGENT_DAYS else log.warning
                write(
                    "certificate ends soon" if days >= 0 else "certificate has ended",
                    setting=expiry.setting,
                    file=str(expiry.path),
                    end=expiry.end.isoformat(),
                    days=round(days, 1),
                )

    def _read(self) -> list[Expiry]:
        try:
            self._files.read()  # a certificate whose key does not fit is not used
            self._latest = expiries(self._files, self._now())
        except (OSError, InvalidInputError):
            pass  # whoever uses them says so
        return self._latest
