from typing import Any

import pytest
from lrpilot.errors import ConfigError
from lrpilot.session.job_config import job_config
from lrpilot.v1 import tuner_pb2 as pb


def made(stop_when: Any) -> pb.JobConfig:
    return job_config(
        policy=None, policy_options=None, lr_bounds=None, total_steps=100, seed=0, base_lr=0.1, stop_when=stop_when
    )


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (0.01, pb.StopWhen(gain=0.01)),
        (2, pb.StopWhen(gain=2)),
        ("1%", pb.StopWhen(share=0.01)),
        (" 2.5 % ", pb.StopWhen(share=0.025)),
    ],
)
def test_what_is_worth_going_on_for_is_a_loss_or_a_percentage(given: object, sent: pb.StopWhen) -> None:
    assert made(given).stop_when == sent
    assert not made(None).HasField("stop_when")


@pytest.mark.parametrize("wrong", ["1", "%", "one %", True, [0.1], {"gain": 1}])
def test_anything_else_is_refused(wrong: object) -> None:
    with pytest.raises(
        ConfigError, match=r"stop_when: .* give a loss as 0.01, or a part of what the run has gained as"
    ):
        made(wrong)
