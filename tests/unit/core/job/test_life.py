from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tuner_server.core.job.life import SHOWN, Life, LifeLimits, Shown, Signs, Vitals, in_words, shown_word
from tuner_server.core.job.state import Status

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
LIMITS = LifeLimits.of_seconds(300, 86_400)


def life(silent_s: float, *, left: bool = False, status: Status = Status.TRAINING) -> Life | None:
    signs = Signs(NOW - timedelta(seconds=silent_s), NOW if left else None)
    return LIMITS.vitals(status, signs, NOW).life


@pytest.mark.parametrize(
    ("silent_s", "expected"),
    [(0, Life.ALIVE), (300, Life.ALIVE), (301, Life.SILENT), (86_400, Life.SILENT), (86_401, Life.ABANDONED)],
)
def test_a_client_is_silent_after_a_while_and_its_job_abandoned_after_a_long_one(
    silent_s: float, expected: Life
) -> None:
    assert life(silent_s) is expected


@pytest.mark.parametrize("silent_s", [0, 301, 86_401])
def test_who_left_before_the_end_is_stopped_however_long_ago(silent_s: float) -> None:
    assert life(silent_s, left=True) is Life.STOPPED


@pytest.mark.parametrize("status", [status for status in Status if not status.live])
@pytest.mark.parametrize("left", [True, False])
def test_a_job_that_has_ended_has_no_life_whatever_its_client_does(status: Status, left: bool) -> None:
    assert life(86_401, left=left, status=status) is None


def test_a_sign_from_a_clock_that_was_set_back_since_is_one_of_now() -> None:
    signs = Signs(NOW + timedelta(seconds=200))
    assert LIMITS.vitals(Status.TRAINING, signs, NOW) == Vitals(Life.ALIVE, timedelta())


def test_a_sign_from_further_ahead_than_a_lease_tells_nothing_and_is_replaced_by_the_next() -> None:
    signs = Signs(NOW + timedelta(days=365))
    assert LIMITS.vitals(Status.TRAINING, signs, NOW).life is Life.SILENT
    assert LIMITS.kept_sign(signs, NOW) == NOW


def test_a_sign_is_written_again_only_when_it_tells_something() -> None:
    assert LIMITS.kept_sign(Signs(NOW - timedelta(seconds=9)), NOW) == NOW - timedelta(seconds=9)
    assert LIMITS.kept_sign(Signs(NOW - timedelta(seconds=10)), NOW) == NOW


def test_dead_is_what_nobody_works_on() -> None:
    assert {each for each in (*Life, None) if Vitals(each).dead} == {Life.STOPPED, Life.ABANDONED, None}


def test_every_life_without_a_client_has_a_sentence() -> None:
    assert Vitals(Life.SILENT, timedelta(minutes=7)).sentence.endswith("the last sign came 7 minutes ago.")
    assert "left 1 hour ago" in Vitals(Life.STOPPED, timedelta(hours=1, minutes=59)).sentence
    assert "abandoned" in Vitals(Life.ABANDONED, timedelta(days=3)).sentence
    assert Vitals(Life.ALIVE).sentence == Vitals(None).sentence == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 seconds"), (0.9, "0 seconds"), (1, "1 second"), (59.9, "59 seconds"), (60, "1 minute"), (7200, "2 hours")],
)
def test_lengths_of_time_are_told_in_their_largest_unit(seconds: float, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


def test_a_job_is_shown_by_one_word_and_found_by_it() -> None:
    for status in Status:
        for each in Life if status.live else [None]:
            word = shown_word(status, each).replace("-", "_")
            by_word = {name for name, shown in SHOWN.items() if shown.shows(status, each)}
            others = {"live", "ended", "alive"}
            assert by_word - others == {word}
            assert ("live" in by_word) == status.live == ("ended" not in by_word)


def test_what_is_shown_adds_up() -> None:
    both = SHOWN["training"] | SHOWN["silent"]
    assert both.shows(Status.TRAINING, Life.ALIVE)
    assert both.shows(Status.SEARCHING, Life.SILENT)
    assert not both.shows(Status.TRAINING, Life.STOPPED)
    assert Shown().shows(Status.FAILED, None)
