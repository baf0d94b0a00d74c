import pytest
from lrpilot.errors import ConfigError
from lrpilot.run.resumption import check_resumable
from lrpilot.v1 import tuner_pb2 as pb


def test_a_run_goes_on_with_what_was_worth_it_when_it_began() -> None:
    begun = pb.JobConfig(base_lr=0.1, stop_when=pb.StopWhen(gain=0.01))
    check_resumable(begun, begun)
    with pytest.raises(ConfigError, match=r"stop_when: none, but .* begun with a gain of 0\.01"):
        check_resumable(begun, pb.JobConfig(base_lr=0.1))
    with pytest.raises(ConfigError, match=r"stop_when: a share of 0.02, but .* a gain of 0\.01"):
        check_resumable(begun, pb.JobConfig(base_lr=0.1, stop_when=pb.StopWhen(share=0.02)))
