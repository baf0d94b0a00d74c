"""Policies of other packages: found by their entry points, imported when they are named, refused with a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.extensions.installed_packages import install
from tests.support.jobs.simulated_training import SimulatedTraining, drive
from tuner_server.core import policies
from tuner_server.core.config import JobConfig, LrBounds
from tuner_server.core.errors import InvalidInputError
from tuner_server.core.job import machine
from tuner_server.core.job.state import Status
from tuner_server.core.policies import plugins
from tuner_server.core.policies.budget import Budget

TWIN = """
from tuner_server.core.policies.budget import Budget

class Twin(Budget):
    name = "twin"
"""

Install = Callable[[str, Mapping[str, str], Mapping[str, str]], None]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package where Python finds it, for as long as the test runs."""
    made: set[str] = set()

    def put(package: str, modules: Mapping[str, str], entries: Mapping[str, str]) -> None:
        install(tmp_path, package, modules, entries)
        made.update(modules)
        plugins.offered.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield put
    forget()
    for module in made & sys.modules.keys():
        del sys.modules[module]


def forget() -> None:
    plugins.offered.cache_clear()
    plugins._loaded.cache_clear()


def job(policy: str) -> JobConfig:
    return JobConfig(policy=policy, total_steps=4000, lr_bounds=LrBounds(min=1e-4, max=1.0), base_lr=0.1)


def refusal(policy: str) -> str:
    with pytest.raises(InvalidInputError) as refused:
        policies.make(job(policy))
    (violation,) = refused.value.violations
    assert violation.field == "policy"
    return violation.description


def test_a_job_is_tuned_by_a_policy_of_another_package(installed: Install) -> None:
    installed("lr-twins", {"twins": TWIN}, {"twin": "twins:Twin"})
    found = drive(job("twin"), SimulatedTraining())
    assert found.state.status is Status.FINISHED
    assert found.state.config.policy == "twin"
    assert found.state.committed_steps == drive(job("budget"), SimulatedTraining()).state.committed_steps


def test_nothing_is_imported_before_it_is_named(installed: Install) -> None:
    installed("lr-twins", {"twins": TWIN}, {"twin": "twins:Twin"})
    policies.make(job("budget"))
    known = ", ".join(sorted([*policies.POLICIES, "twin"]))
    assert refusal("another") == f"unknown policy 'another'; there are {known}"
    assert "twins" not in sys.modules
    policies.make(job("twin"))
    assert "twins" in sys.modules


@pytest.mark.parametrize(
    ("source", "place", "why"),
    [
        ("import nothing_of_the_kind", "odd:Odd", "its import fails with ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "odd:Odd", "its import fails with SystemExit: 3"),
        ("class Other: pass", "odd:Odd", "its import fails with AttributeError: module 'odd' has no attribute 'Odd'"),
        ("class Odd: name = 'odd'", "odd:Odd", "is no subclass of tuner_server.core.policies.base.Policy"),
        ("Odd = 3", "odd:Odd", "3 is no subclass of tuner_server.core.policies.base.Policy"),
        (TWIN, "odd:Twin", "Twin calls itself 'twin'; its `name` must be that of its entry"),
        ("from tuner_server.core.policies.base import Policy as Odd", "odd:Odd", "Policy lacks advance, rejoin, start"),
        (TWIN.replace('"twin"', '"odd"\n    options_type = dict'), "odd:Twin", "the `options_type` of Twin is no"),
        (TWIN.replace('"twin"', '"odd"\n    state_type = None'), "odd:Twin", "the `state_type` of Twin is no subclass"),
    ],
)
def test_what_is_no_policy_is_refused_and_harms_no_other(source: str, place: str, why: str, installed: Install) -> None:
    installed("odd-ones", {"odd": source}, {"odd": place})
    installed("lr-twins", {"twins": TWIN}, {"twin": "twins:Twin"})
    said = refusal("odd")
    assert said.startswith("policy 'odd' of package odd-ones 1.0 can't be used: ")
    assert why in said
    assert refusal("odd") == said
    assert policies.make(job("twin")).name == "twin"
    assert policies.make(job("budget")).name == "budget"


def test_a_name_of_lrpilots_own_stays_its_own(installed: Install) -> None:
    installed("impostors", {"impostors": TWIN.replace('"twin"', '"budget"')}, {"budget": "impostors:Twin"})
    assert type(policies.make(job("budget"))) is Budget
    assert plugins.hidden(policies.POLICIES) == [
        "policy 'budget' of package impostors 1.0 can't be used: LRPilot has one of this name; give it another"
    ]
    assert "impostors" not in sys.modules


def test_a_name_that_two_packages_offer_is_neither_s(installed: Install) -> None:
    installed("lr-twins", {"twins": TWIN}, {"twin": "twins:Twin"})
    installed("more-twins", {"more_twins": TWIN}, {"twin": "more_twins:Twin"})
    assert refusal("twin") == (
        "policy 'twin' is offered by package lr-twins 1.0 and package more-twins 1.0; uninstall all but one"
    )


def test_a_job_whose_policy_is_not_installed_any_more_fails_alone(installed: Install, tmp_path: Path) -> None:
    installed("lr-twins", {"twins": TWIN}, {"twin": "twins:Twin"})
    training = SimulatedTraining()
    state = drive(job("twin"), training, max_directives=3).state
    (tmp_path / "lr_twins-1.0.dist-info" / "entry_points.txt").unlink()
    forget()
    failed = machine.advance(state, training.run(state.directive)).state
    assert failed.status is Status.FAILED
    assert "unknown policy 'twin'" in failed.message
