"""Digests by which a request or a report that comes again is known."""

from __future__ import annotations

from tests.support.jobs.simulated_training import QUICK, config
from tuner_server.core.config import JobConfig
from tuner_server.core.messages import Report
from tuner_server.service.tuner_service import fingerprint

CONFIG = config(400, **QUICK)


def test_the_order_of_options_makes_no_difference_to_a_request() -> None:
    options = {"tau": 40.0, "nested": {"a": 1.0, "b": 2.0}}
    turned = {"nested": {"b": 2.0, "a": 1.0}, "tau": 40.0}
    same = [CONFIG.model_copy(update={"policy_options": o}) for o in (options, turned)]
    assert fingerprint(same[0]) == fingerprint(same[1])


def test_a_fingerprint_tells_values_apart() -> None:
    base = Report.model_validate({"directive_number": 1, "outcome": "diverged", "losses": (1.0,)})
    losses: list[tuple[float, ...]] = [(1.0,), (1.0, 1.0), (2.0,), (float("nan"),), (float("inf"),), (-float("inf"),)]
    assert len({fingerprint(base.model_copy(update={"losses": each})) for each in losses}) == len(losses)
    nan = base.model_copy(update={"losses": (float("nan"),)})
    assert fingerprint(nan) == fingerprint(nan.model_copy(update={"losses": (float("nan"),)}))


def test_a_fingerprint_tells_measures_apart() -> None:
    base = Report.model_validate({"directive_number": 1, "outcome": "diverged", "losses": (1.0,)})
    measures: list[dict[str, tuple[float, ...]]] = [
        {},
        {"a": (1.0,)},
        {"a": (2.0,)},
        {"b": (1.0,)},
        {"a": (float("nan"),)},
        {"a": (1.0,), "b": (2.0,)},
        {"a": (2.0,), "b": (1.0,)},
        {"a": (1.0, 2.0), "b": ()},
    ]
    assert len({fingerprint(base.model_copy(update={"measures": each})) for each in measures}) == len(measures)
    turned = base.model_copy(update={"measures": {"b": (2.0,), "a": (1.0,)}})
    assert fingerprint(turned) == fingerprint(base.model_copy(update={"measures": measures[5]}))


def test_what_has_no_measures_keeps_the_fingerprint_that_older_servers_gave_it() -> None:
    """Its sender may have had no answer from one, and send it again to a server of this version."""
    report = Report.model_validate({"directive_number": 1, "outcome": "diverged", "losses": (1.0, 2.0)})
    plain = JobConfig(base_lr=0.1)
    assert fingerprint(report).hex() == "7d869e86a1b37af9882247de6e076396bf8549b2798aa018126c7e2d0a844d1d"
    assert fingerprint(plain).hex() == "c2108af2e12aa168b5f94d609649580532ebfb3dd5c5a09e9db552d94030aa38"
