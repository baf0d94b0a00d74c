"""Which end of several certificates counts, and what a file without any is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from tuner_server.access.expiry import Expiry, expiries
from tuner_server.access.tls import TlsFiles
from tuner_server.core.errors import InvalidInputError
from tuner_server.ops.certificates import CertificateEnds

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def pem(days: float) -> bytes:
    issued = trustme.CA().issue_cert("localhost", not_after=NOW + timedelta(days=days))
    return issued.cert_chain_pems[0].bytes()


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    issued = trustme.CA().issue_cert("localhost", not_after=NOW + timedelta(days=20))
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "clients.pem")
    issued.cert_chain_pems[0].write_to_path(files.cert)
    files.key.touch(mode=0o600)
    issued.private_key_pem.write_to_path(files.key)
    assert files.client_ca is not None
    files.client_ca.write_bytes(pem(300))
    return files


def days(files: TlsFiles) -> dict[str, int]:
    return {found.setting: round(found.days_left(NOW)) for found in expiries(files, NOW)}


def test_a_chain_ends_with_its_first_certificate(files: TlsFiles) -> None:
    files.cert.write_bytes(pem(20) + pem(10) + pem(400))
    assert days(files)["tls_cert"] == 10


@pytest.mark.parametrize(("ends", "counts"), [((-5, 30, 300), 30), ((-5, -2), -2)])
def test_of_authorities_the_next_one_that_ends_counts(files: TlsFiles, ends: tuple[float, ...], counts: int) -> None:
    """One that has ended was replaced, as its successor beside it says."""
    assert files.client_ca is not None
    files.client_ca.write_bytes(b"".join(map(pem, ends)))
    assert days(files)["tls_client_ca"] == counts


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_certificates_is_named(files: TlsFiles, content: bytes | None) -> None:
    files.cert.unlink()
    if content is not None:
        files.cert.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"tls_cert: .*cert\.pem"):
        expiries(files, NOW)


@pytest.mark.parametrize(("left", "level"), [(40.0, None), (20.0, "warning"), (3.0, "error"), (-1.0, "error")])
def test_the_log_warns_the_more_the_nearer_the_end_is(files: TlsFiles, left: float, level: str | None) -> None:
    with capture_logs() as lines:
        CertificateEnds(files, lambda: NOW + timedelta(days=20 - left)).warn()
    assert [line["log_level"] for line in lines if line["setting"] == "tls_cert"] == ([] if level is None else [level])


def test_the_metric_is_of_what_is_used(files: TlsFiles) -> None:
    registry = CollectorRegistry()
    registry.register(CertificateEnds(files, lambda: NOW))
    former = generate_latest(registry)
    assert b'lrpilot_tls_certificate_expiry_timestamp_seconds{file="tls_cert"}' in former
    files.cert.write_bytes(pem(90))  # its key is another one
    assert generate_latest(registry) == former


def test_words_say_when() -> None:
    end = Expiry("tls_cert", Path("c.pem"), NOW)
    assert end.words(NOW - timedelta(days=5)) == "ends 2026-06-01 00:00 UTC, in 5 days"
    assert end.words(NOW + timedelta(days=5)) == "ended 2026-06-01 00:00 UTC, 5 days ago"
