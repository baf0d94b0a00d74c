"""A checkpoint of another model is refused in one line, and one that was only wrapped otherwise says so."""

from __future__ import annotations

import pytest
from lrpilot.backends.torch.rollback.difference import difference
from torch import nn


@pytest.mark.parametrize(
    ("model", "saved", "words"),
    [
        (nn.Linear(2, 1), nn.ModuleDict({"module": nn.Linear(2, 1)}), "wrapped otherwise"),
        (nn.ModuleDict({"module": nn.Linear(2, 1)}), nn.Linear(2, 1), "as many processes"),
        (nn.Linear(2, 1), nn.Linear(3, 1), "it is another one than the checkpoint's: Error(s) in loading"),
        (nn.Linear(2, 1), nn.Linear(2, 1, bias=False), "Missing key(s)"),
    ],
)
def test_what_differs_is_said_in_a_line(model: nn.Module, saved: nn.Module, words: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(saved.state_dict())
    told = difference(model, saved.state_dict(), caught.value)
    assert words in told
    assert "\n" not in told
