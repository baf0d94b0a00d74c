from __future__ import annotations

import dataclasses

import pytest
from structlog.testing import capture_logs

from tuner_server.base.failures import AGAIN_S, MAX_KINDS, Failures
from tuner_server.core.errors import StorageError


@dataclasses.dataclass
class Clock:
    """A clock that is set."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def fail(failures: Failures, message: str) -> None:
    """One fault of ours, at one place."""
    try:
        raise ZeroDivisionError(message)
    except ZeroDivisionError as error:
        failures.unforeseen(error)


def test_a_reason_is_told_at_once_then_each_minute_and_when_it_has_ended() -> None:
    clock = Clock()
    failures = Failures(clock)
    with capture_logs() as lines:
        for _ in range(1000):
            failures.because(StorageError("the disk is full"))
        clock.now_s = AGAIN_S
        failures.because(StorageError("the disk is full"))
        clock.now_s += AGAIN_S - 1
        failures.look()
        clock.now_s += 1
        failures.look()
        failures.look()
        failures.because(StorageError("the disk is full"))
    why = "StorageError: the disk is full"
    assert lines == [
        {"event": "calls fail", "log_level": "warning", "why": why, "count": 1},
        {"event": "calls fail", "log_level": "warning", "why": why, "count": 1001},
        {"event": "calls fail no longer", "log_level": "info", "why": why, "count": 1001, "lasted_s": 60},
        {"event": "calls fail", "log_level": "warning", "why": why, "count": 1},
    ]
    assert failures.total == 1002


def test_what_differs_in_numbers_alone_is_one_reason() -> None:
    failures = Failures(Clock())
    with capture_logs() as lines:
        for port in range(100):
            failures.because(StorageError(f"no connection from port {port} to 0xdeadbeef{port:04}"))
        failures.because(StorageError("another"))
    assert [line["why"] for line in lines] == [
        "StorageError: no connection from port 0 to 0xdeadbeef0000",
        "StorageError: another",
    ]


def test_a_fault_of_ours_has_its_traceback_once_a_minute() -> None:
    clock = Clock()
    failures = Failures(clock)
    with capture_logs() as lines:
        for i in range(100):
            fail(failures, f"{'x' * i}")  # its words are no part of what it is
        clock.now_s = AGAIN_S
        fail(failures, "again")
    assert [line["count"] for line in lines] == [1, 101]
    assert all(isinstance(line["exc_info"], ZeroDivisionError) for line in lines)


def test_reasons_without_bound_count_together() -> None:
    failures = Failures(Clock())
    with capture_logs() as lines:
        for i in range(10 * MAX_KINDS):
            failures.because(StorageError("x" * (i % 150) + "y" * (i // 150)))
    assert len(lines) == MAX_KINDS + 1
    assert lines[-1]["why"].startswith("many reasons, such as StorageError")


@pytest.mark.parametrize("message", ["", "with\nlines", "\ud800"])
def test_any_message_is_a_reason(message: str) -> None:
    with capture_logs() as lines:
        Failures(Clock()).because(StorageError(message))
    assert len(lines) == 1
