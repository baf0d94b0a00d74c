"""The lowest versions that pyproject.toml allows, as constraints for pip: `make test-lowest` installs by them.

What LRPilot depends on, and the frameworks that it has adapters for, come at their lower bounds. The tools of the extra
`test` come at the versions of constraints.txt, and what all of these need in turn is pip's choice. A version that no
index offers to this machine is replaced by the one in constraints.txt, and that is said.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOWEST_EXTRAS = ("server", "otel", "demo", "frameworks")
PINNED_EXTRAS = ("test",)
_PIP_INDEX_TIMEOUT_S = 180

Offers = Callable[[str], list[Version]]
"""What the indexes that pip knows of offer to this machine, by a project's name."""


@dataclass(frozen=True)
class Constraint:
    """The version that one direct dependency is installed at."""

    name: str
    version: Version
    remark: str = ""
    """Why it is not the lower bound, where it is not."""

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def direct(pyproject: str, extras: Iterable[str], *, with_base: bool) -> list[Requirement]:
    """The requirements that these extras name themselves, the project's own extras left out."""
    project = tomllib.loads(pyproject)["project"]
    own = canonicalize_name(project["name"])
    lines: list[str] = list(project["dependencies"]) if with_base else []
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    requirements = [Requirement(line) for line in lines]
    return [requirement for requirement in requirements if canonicalize_name(requirement.name) != own]


def pins(constraints: str) -> dict[str, Version]:
    """The versions of a file of constraints, by canonical name."""
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in found}


def bound(requirement: Requirement) -> Version:
    """The lower bound of a requirement.

    Raises:
        ValueError: It has none, so its lowest version means nothing.
    """
    for specifier in requirement.specifier:
        if specifier.operator == ">=":
            return Version(specifier.version)
    raise ValueError(f"{requirement.name}: has no lower bound in pyproject.toml; give it one, as in numpy>=2")


def lowest(requirement: Requirement, offered: Iterable[Version], pinned: Version) -> Constraint:
    """The lowest of the versions offered that a requirement allows, or else the pinned one."""
    wanted = bound(requirement)
    allowed = sorted(requirement.specifier.filter(offered))
    if not allowed:
        return Constraint(requirement.name, pinned, f"no index offers {wanted} or a later one to this machine: pinned")
    remark = "" if Version(allowed[0].public) == wanted else f"no index offers {wanted}: the next one"
    return Constraint(requirement.name, allowed[0], remark)


def constraints(pyproject: str, pinned: dict[str, Version], offers: Offers) -> list[Constraint]:
    """What to install: lower bounds of what users have, pinned versions of our tools."""
    bounded = direct(pyproject, LOWEST_EXTRAS, with_base=True)
    with ThreadPoolExecutor(4) as pool:
        offered = list(pool.map(lambda requirement: offers(requirement.name), bounded))
    found = [
        lowest(requirement, versions, pinned[canonicalize_name(requirement.name)])
        for requirement, versions in zip(bounded, offered, strict=True)
    ]
    tools = direct(pyproject, PINNED_EXTRAS, with_base=False)
    return found + [Constraint(tool.name, pinned[canonicalize_name(tool.name)]) for tool in tools]


def offered_by_pip(name: str) -> list[Version]:
    """Asks pip, with its settings on this machine."""
    asked = [sys.executable, "-m", "pip", "index", "versions", "--json", name]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=_PIP_INDEX_TIMEOUT_S)
    if answer.returncode:
        return []
    return [Version(version) for version in json.loads(answer.stdout)["versions"]]


def main() -> None:
    """Writes the constraints, and prints where they are not the lower bounds."""
    parser = argparse.ArgumentParser(description="Writes the lowest versions that pyproject.toml allows, for pip -c.")
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    pinned = pins((ROOT / "constraints.txt").read_text())
    found = constraints((ROOT / "pyproject.toml").read_text(), pinned, offered_by_pip)
    for constraint in found:
        if constraint.remark:
            print(f"{constraint}: {constraint.remark}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(f"{constraint}\n" for constraint in found))


if __name__ == "__main__":
    main()
