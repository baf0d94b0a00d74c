from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping, Sequence

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import lowest

PYPROJECT = """
[project]
name = "lrpilot"
dependencies = ["grpcio>=1.85"]
[project.optional-dependencies]
server = ["psycopg[binary]>=3.2"]
otel = ["lrpilot[server]", "Opentelemetry_SDK>=1.43,<2"]
demo = ["lrpilot[server]"]
frameworks = ["torch>=2.6"]
test = ["lrpilot[server]", "pytest>=8"]
dev = ["ruff>=0.12"]
"""
PINNED = {"grpcio": "1.90", "psycopg": "3.4", "opentelemetry-sdk": "1.45", "torch": "2.13.0", "pytest": "9.2"}


def versions(*written: str) -> list[Version]:
    return [Version(version) for version in written]


def constraints(offered: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """By the project's name: the line for pip, and the remark."""
    pinned = {name: Version(version) for name, version in PINNED.items()}
    found = lowest.constraints(PYPROJECT, pinned, lambda name: versions(*offered.get(name, ())))
    return {str(constraint): constraint.remark for constraint in found}


def test_users_dependencies_are_at_their_bounds_and_tools_at_their_pins() -> None:
    offered = {
        "grpcio": ["1.90", "1.85.0", "1.84"],
        "psycopg": ["3.2", "3.4"],
        "Opentelemetry_SDK": ["1.43", "2.0"],
        "torch": ["2.13.0", "2.6.0"],
    }
    assert constraints(offered) == {
        "grpcio==1.85.0": "",
        "psycopg==3.2": "",
        "Opentelemetry_SDK==1.43": "",
        "torch==2.6.0": "",
        "pytest==9.2": "",
    }


def test_what_no_index_offers_is_pinned_and_said() -> None:
    found = constraints({"grpcio": ["1.84"]})
    assert found["grpcio==1.90"] == "no index offers 1.85 or a later one to this machine: pinned"
    assert found["torch==2.13.0"] == "no index offers 2.6 or a later one to this machine: pinned"


def test_the_next_version_stands_in_for_one_that_was_never_released_and_is_said() -> None:
    requirement = Requirement("structlog>=25")
    found = lowest.lowest(requirement, versions("26.1", "25.1.0"), Version("26.1"))
    assert (str(found), found.remark) == ("structlog==25.1.0", "no index offers 25: the next one")


def test_a_build_for_cpus_is_the_version_that_it_is_built_of() -> None:
    found = lowest.lowest(Requirement("torch>=2.6"), versions("2.6.0+cpu"), Version("2.13.0"))
    assert (str(found), found.remark) == ("torch==2.6.0+cpu", "")


def test_development_versions_are_not_taken() -> None:
    found = lowest.lowest(Requirement("rich>=14"), versions("14.0.1a1", "14.0.1"), Version("15"))
    assert str(found) == "rich==14.0.1"


def test_a_dependency_without_a_lower_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="mlxtend: has no lower bound in pyproject"):
        lowest.bound(Requirement("mlxtend<1"))


def test_pip_s_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        known = command[-1] == "rich"
        return subprocess.CompletedProcess(command, 0 if known else 1, '{"versions": ["15.0.0", "14.0.0"]}' * known, "")

    monkeypatch.setattr(subprocess, "run", answer)
    assert lowest.offered_by_pip("rich") == versions("15.0.0", "14.0.0")
    assert lowest.offered_by_pip("rihc") == []
    assert asked[0][1:] == ["-m", "pip", "index", "versions", "--json", "rich"]


def test_this_project_s_dependencies_all_have_bounds_and_pins_that_fit() -> None:
    pyproject = (lowest.ROOT / "pyproject.toml").read_text()
    pinned = lowest.pins((lowest.ROOT / "constraints.txt").read_text())
    extras = tomllib.loads(pyproject)["project"]["optional-dependencies"].keys()
    for requirement in lowest.direct(pyproject, extras, with_base=True):
        assert lowest.bound(requirement) <= pinned[canonicalize_name(requirement.name)], requirement
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement
