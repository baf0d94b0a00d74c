"""Names that ids make."""

from __future__ import annotations

import random

import pytest
from lrpilot.wire.text.job_names import ANIMALS, QUALITIES, called, generated, id_beginning


def test_every_seven_bits_have_a_word_of_their_own() -> None:
    for words in (QUALITIES, ANIMALS):
        assert len(words) == len(set(words)) == 128
        assert all(word.isascii() and word.isalpha() and word.islower() and len(word) <= 8 for word in words)


def test_a_name_follows_from_an_id_and_leads_back_to_it() -> None:
    noise = random.Random(0)
    for _ in range(300):
        job_id = f"{noise.getrandbits(128):032x}"
        name = generated(job_id)
        assert generated(job_id) == name
        assert job_id.startswith(id_beginning(name))
    assert generated("0" * 32) == "able-adder-0"
    assert generated("f" * 32) == "wise-turtle-1023"


def test_ids_that_differ_early_have_other_names() -> None:
    assert generated("000000" + "0" * 26) != generated("000001" + "0" * 26)


@pytest.mark.parametrize(
    "name", ["", "heron", "quiet-heron", "quiet-heron-1024", "odd-heron-1", "quiet-heron-१", "a-b-1"]
)
def test_other_words_lead_to_no_id(name: str) -> None:
    assert id_beginning(name) == ""


def test_a_name_that_was_given_is_kept_and_a_run_without_a_server_has_none() -> None:
    assert called("mine", "0" * 32) == "mine"
    assert called("", "") == ""
    assert called("", "not an id") == "not an i"


@pytest.mark.parametrize("name", [" ", "\xa0", "\u3000\u2003", "\u2800", "\u200d", " \ufe0f"])
def test_a_name_that_nobody_sees_is_none(name: str) -> None:
    assert called(name, "0" * 32) == generated("0" * 32)
    assert called(f"{name}x", "0" * 32) == f"{name}x"
