"""Whoever watches is told, and nobody else; nothing that a screen does ends a run."""

from __future__ import annotations

import io
import sys

import pytest
from lrpilot.narration.screen import VARIABLE, Screen, other_bars, screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("watched", "variable", "progress", "told"),
    [
        (True, "", None, True),
        (False, "", None, False),
        (True, "0", None, False),
        (True, "off", None, False),
        (False, "1", None, True),
        (True, "", False, False),
        (False, "", True, True),
        (True, "0", True, True),
    ],
)
def test_who_is_told(
    watched: bool, variable: str, progress: bool | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if watched else io.StringIO())
    monkeypatch.setenv(VARIABLE, variable)
    assert (screen(progress) is not None) == told


def test_without_standard_error_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert screen(True) is None


def test_a_line_goes_above_the_bar() -> None:
    stream = Terminal()
    shown = Screen(stream)
    shown.bar("10%")
    shown.line("a decision")
    shown.bar("20%")
    shown.bar("")
    assert stream.getvalue() == "10%\r   \ra decision\n10%\r   \r20%\r   \r"


def test_what_comes_from_a_server_gives_no_orders_to_the_terminal() -> None:
    stream = Terminal()
    Screen(stream).line("a\x1b]0;title\x07b\nc")
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    stream = Terminal()
    stream.close()
    Screen(stream).line("a decision")


def test_signs_that_a_terminal_lacks_are_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", write_through=True)
    Screen(stream).line("ü and 学")
    assert raw.getvalue() == "ü and ?\n".encode("latin-1")


def test_bars_of_tqdm_are_left_alone() -> None:
    from tqdm import tqdm  # type: ignore[import-untyped]  # it has no stubs

    assert not other_bars()
    with tqdm(total=1, file=io.StringIO()):
        assert other_bars()
    assert not other_bars()
