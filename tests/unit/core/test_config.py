"""What a job may be asked to be, and how a refusal names the field at fault."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tuner_server.core import policies
from tuner_server.core.config import MAX_NAME, JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"base_lr": 0.0}, "base_lr"),
        ({"base_lr": -0.1}, "base_lr"),
        ({"base_lr": NAN}, "base_lr"),
        ({"base_lr": INF}, "base_lr"),
        ({"base_lr": "fast"}, "base_lr"),
        ({"total_steps": 0}, "total_steps"),
        ({"total_steps": -5}, "total_steps"),
        ({"total_steps": 1.5}, "total_steps"),
        ({"total_time_s": 0.0}, "total_time_s"),
        ({"total_time_s": -1.0}, "total_time_s"),
        ({"total_time_s": INF}, "total_time_s"),
        ({"total_time_s": NAN}, "total_time_s"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"name": "n" * (MAX_NAME + 1)}, "name"),
        ({"family": "f" * (MAX_NAME + 1)}, "family"),
        ({"lr_bounds": {"min": 0.0, "max": 1.0}}, "lr_bounds"),
        ({"lr_bounds": {"min": 1.0, "max": 1.0}}, "lr_bounds"),
        ({"lr_bounds": {"min": 2.0, "max": 1.0}}, "lr_bounds"),
        ({"lr_bounds": {"min": 0.1, "max": INF}}, "lr_bounds"),
        ({"lr_bounds": {"min": NAN, "max": 1.0}}, "lr_bounds"),
        ({"lr_bounds": {"min": 0.1}}, "lr_bounds.max"),
        ({"momentum": 0.9}, "momentum"),
        ({"stop_when": {"gain": 0.1}}, "stop_when"),
        ({"stop_when": {"gain": 0.1}, "has_validation": True, "total_time_s": 60.0}, "stop_when"),
        ({"stop_when": {}, "has_validation": True}, "stop_when"),
        ({"stop_when": {"gain": 0.1, "share": 0.1}, "has_validation": True}, "stop_when"),
        ({"stop_when": {"gain": 0.0}, "has_validation": True}, "stop_when.gain"),
        ({"stop_when": {"gain": INF}, "has_validation": True}, "stop_when.gain"),
        ({"stop_when": {"share": 1.0}, "has_validation": True}, "stop_when.share"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        JobConfig.checked(**{"base_lr": 0.1} | fields)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert caught.value.violations[0].description


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(InvalidInputError) as caught:
        JobConfig.checked(base_lr=-1.0, total_steps=0, seed=-1)
    assert {violation.field for violation in caught.value.violations} == {"base_lr", "total_steps", "seed"}
    assert "(got -1.0)" in str(caught.value)


def test_an_end_is_in_steps_or_in_time() -> None:
    with pytest.raises(InvalidInputError, match=r"total_time_s: 4 beside total_steps 100; give one"):
        JobConfig.checked(base_lr=0.1, total_steps=100, total_time_s=4.0)


@pytest.mark.parametrize("policy", ["autolrs", "budget"])
def test_a_time_is_refused_for_a_policy_that_plans_by_steps(policy: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        policies.make(JobConfig(base_lr=0.1, policy=policy, total_time_s=60.0))
    assert [violation.field for violation in caught.value.violations] == ["total_time_s"]


def test_limits_are_within() -> None:
    config = JobConfig.checked(
        base_lr=5e-324, total_steps=1, seed=2**63 - 1, name="n" * MAX_NAME, family="é" * MAX_NAME
    )
    assert JobConfig.model_validate_json(config.model_dump_json()) == config


def test_a_config_can_not_be_changed() -> None:
    config = JobConfig(base_lr=0.1)
    with pytest.raises(ValueError, match="frozen"):
        config.base_lr = 0.2


def test_bounds_in_logarithms_and_their_middle() -> None:
    bounds = LrBounds(min=1e-4, max=1.0)
    assert bounds.log == (math.log(1e-4), 0.0)
    assert bounds.middle == pytest.approx(1e-2)
