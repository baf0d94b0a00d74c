"""Whoever watches is told, and nobody else; nothing that a screen does ends a run."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from lrpilot.narration.screen import VARIABLE, Notebook, Terminal, other_bars, screen


class Watched(io.StringIO):
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
    monkeypatch.setattr(sys, "stderr", Watched() if watched else io.StringIO())
    monkeypatch.setenv(VARIABLE, variable)
    assert (screen(progress) is not None) == told


def test_without_standard_error_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert screen(True) is None


def test_a_line_goes_above_the_bar() -> None:
    stream = Watched()
    shown = Terminal(stream)
    shown.bar("10%")
    shown.line("a decision")
    shown.bar("20%")
    shown.bar("")
    assert stream.getvalue() == "10%\r   \ra decision\n10%\r   \r20%\r   \r"


@pytest.mark.parametrize("written_by", ["print", "log", "another run"])
def test_what_others_write_stands_on_a_line_of_its_own(written_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Watched()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    write, logger = vars(terminal).get("write"), logging.getLogger("somebody.else")
    handler = logging.StreamHandler(terminal)
    logger.addHandler(handler)
    shown, other = Terminal(terminal), Terminal(terminal)
    shown.bar("  10% 12/120  probe at LR 0.1")
    if written_by == "print":
        print("epoch 1")
    elif written_by == "log":
        logger.warning("epoch 1")
    else:
        other.line("epoch 1")
    logger.removeHandler(handler)
    shown.bar("  20% 24/120")
    shown.bar("")
    other.line("the end")

    seen = [line.rsplit("\r", 1)[-1] for line in terminal.getvalue().split("\n")]
    assert seen == ["epoch 1", "the end", ""]
    assert vars(terminal).get("write") is write


def test_a_method_that_somebody_else_has_put_onto_the_stream_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, texts = Watched(), list[str]()
    write = terminal.write

    def noted(text: str) -> int:
        texts.append(text)
        return write(text)

    monkeypatch.setattr(terminal, "write", noted)
    shown, theirs = Terminal(terminal), terminal.write
    shown.bar("10%")
    print("epoch 1", file=terminal)
    assert terminal.write is theirs
    shown.bar("20%")
    ours = terminal.write
    monkeypatch.setattr(terminal, "write", lambda text: ours(text))
    latest = terminal.write
    shown.bar("")
    assert terminal.write is latest
    assert "epoch 1" in texts


def test_a_terminal_that_cannot_go_back_gets_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Watched()
    shown = Terminal(terminal)
    shown.bar("10%")
    shown.line("a line")
    assert terminal.getvalue() == "a line\n"


def test_what_comes_from_a_server_gives_no_orders_to_the_terminal() -> None:
    stream = Watched()
    Terminal(stream).line("a\x1b]0;title\x07b\nc")
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    stream = Watched()
    stream.close()
    Terminal(stream).line("a decision")


def test_signs_that_a_terminal_lacks_are_replaced() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1", write_through=True)
    Terminal(stream).line("ü and 学")
    assert raw.getvalue() == "ü and ?\n".encode("latin-1")


def test_bars_of_tqdm_are_left_alone() -> None:
    from tqdm import tqdm  # type: ignore[import-untyped]  # it has no stubs

    assert not other_bars()
    with tqdm(total=1, file=io.StringIO()):
        assert other_bars()
    assert not other_bars()


class Cells:
    """What a notebook's shell and its `IPython.display` are asked for."""

    def __init__(self) -> None:
        self.execution_count = 1
        self.shown: dict[str, str] = {}
        self.made: list[str] = []

    def display(self, told: dict[str, str], *, raw: bool, display_id: str) -> None:
        assert raw
        self.made.append(display_id)
        self.shown[display_id] = told["text/plain"]

    def update_display(self, told: dict[str, str], *, raw: bool, display_id: str) -> None:
        assert raw
        assert display_id in self.shown
        self.shown[display_id] = told["text/plain"]


def test_a_cell_has_one_display_that_changes() -> None:
    cells = Cells()
    notebook = Notebook(cells, cells)
    notebook.bar("10%")
    notebook.line("a decision")
    notebook.bar("20%")
    assert [*cells.shown.values()] == ["a decision\n20%"]
    cells.execution_count += 1
    notebook.bar("30%")
    notebook.bar("")
    notebook.line("the end")
    assert len(cells.made) == 2
    assert [*cells.shown.values()] == ["a decision\n20%", "the end"]


def test_a_notebook_that_shows_nothing_ends_nothing() -> None:
    Notebook(object(), object()).line("a decision")
