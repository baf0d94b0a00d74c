"""The page on the log has every line and every message that there is, and no other."""

from __future__ import annotations

import re

import pytest
from lrpilot.wire.phase import Phase

from tests.support.repository import doc_pages, log_messages

PAGE = doc_pages.TRAINING_LOOPS / "log.md"
TEXT = PAGE.read_text("utf-8")
SHOWN = re.findall(r"^\| `(.*?)` \|", TEXT[TEXT.index("## Messages of the logger") :], re.MULTILINE)
"""The beginnings of messages, as the page has them."""
LOGGED = sorted(log_messages.logged())


@pytest.mark.parametrize("message", LOGGED)
def test_a_message_is_explained(message: str) -> None:
    assert [shown for shown in SHOWN if begins(message, shown)]


@pytest.mark.parametrize("shown", SHOWN)
def test_what_is_explained_can_be_said(shown: str) -> None:
    assert [message for message in LOGGED if begins(message, shown)]


def begins(message: str, shown: str) -> bool:
    """Whether a page's words are the beginning of a message, with room for what follows."""
    return len(shown) >= 10 and message.startswith(shown)


def test_the_lines_and_the_bar_are_shown() -> None:
    words = " ".join(TEXT.split())
    narrated = log_messages.narrated()
    assert len(narrated) > 10
    assert {word for word in narrated if word not in words} == set()


def test_every_phase_is_explained() -> None:
    rows = re.findall(r"^\| `([a-z ]+)` \|", TEXT[: TEXT.index("## Messages of the logger")], re.MULTILINE)
    assert {phase.value.replace("_", " ") for phase in Phase} <= set(rows)


def test_the_words_of_reasons_are_the_policies() -> None:
    table = TEXT[TEXT.index("| words of the reason") : TEXT.index("lrpilot: done")]
    shown = [
        words for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for words in re.findall(r"`(.*?)`", row)
    ]
    core = " ".join(path.read_text("utf-8") for path in (doc_pages.ROOT / "tuner_server" / "core").rglob("*.py"))
    parts = {part.strip(" ,:") for words in shown for part in re.split(r"[\d.]+", words)}
    assert len(parts) > 10
    assert {part for part in parts if part not in core} == set()
