"""`help` and `?` show every option, and one that is unknown is answered with what may have been meant."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import lrpilot
import pytest
import torch
from lrpilot.federated import Client
from lrpilot.integrations.lightning import TunerCallback
from lrpilot.run.options import JobOptions
from torch import nn


@pytest.mark.parametrize("kind", [lrpilot.Tuner, Client, TunerCallback])
def test_a_signature_has_every_option_and_its_default(kind: type) -> None:
    parameters = inspect.signature(kind).parameters
    assert set(JobOptions.__annotations__) < set(parameters)
    assert parameters["timeout_s"].default == 30.0
    assert parameters["total_steps"].default is None
    assert all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def test_help_shows_them() -> None:
    assert "lr_bounds" in pydoc.plain(pydoc.render_doc(lrpilot.Tuner)).split("Tunes the learning rate")[0]


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("total_step", "did you mean 'total_steps'?"),
        ("max_steps", "did you mean 'total_steps'?"),
        ("lr_range", "did you mean 'lr_bounds'?"),
        ("xyz", "it has model, optimizer, validate"),
    ],
)
def test_an_unknown_argument_names_the_class_and_what_was_meant(given: str, answer: str) -> None:
    model = nn.Linear(2, 1)
    arguments: dict[str, Any] = {given: 1}
    with pytest.raises(TypeError) as raised:
        lrpilot.Tuner(model, torch.optim.SGD(model.parameters(), lr=0.1), **arguments)
    assert str(raised.value).startswith(f"Tuner() has no argument {given!r}; {answer}")
