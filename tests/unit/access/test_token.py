"""A token is hard to guess, easy to recognise, and keeps quiet about its secret."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from tuner_server.access.token import Token


def test_a_token_is_read_back() -> None:
    token = Token.new()
    assert Token.parse(token.text) == token
    assert token.text == f"lrp_{token.id}_{token.secret}"


def test_no_two_are_alike_and_a_secret_has_256_bits() -> None:
    tokens = [Token.new() for _ in range(100)]
    assert len({token.secret for token in tokens}) == len({token.id for token in tokens}) == 100
    assert {len(token.secret) for token in tokens} == {43}  # 43 characters of 6 bits


def test_it_matches_its_own_hash_alone() -> None:
    token, other = Token.new(), Token.new()
    assert token.matches(token.secret_hash)
    assert not token.matches(other.secret_hash)
    assert not token.matches(b"")
    assert token.secret.encode() not in token.secret_hash


def test_it_does_not_show_its_secret() -> None:
    token = Token.new()
    assert token.secret not in f"{token} {token!r} {token.secret_hash!r}"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.upper(),
        lambda text: text.replace("lrp_", "lrq_"),
        lambda text: text[:20] + "é" + text[21:],
    ],
)
def test_what_is_nearly_a_token_is_none(change: object) -> None:
    assert callable(change)
    assert Token.parse(change(Token.new().text)) is None


@hypothesis.settings(derandomize=True, deadline=None, max_examples=50)
@hypothesis.given(st.text(max_size=80) | st.from_regex(r"lrp_[0-9a-f]{12}_[A-Za-z0-9_-]{43}"))
def test_any_text_is_read(text: str) -> None:
    token = Token.parse(text)
    assert token is None or token.text == text
