"""Every arrow of the house runs down: no room imports one above it, and no modules import one another in a circle."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"lrpilot": ROOT / "client", "tuner_server": ROOT}

CLIENT = (
    "v1 errors rng schedules",
    "wire objects arguments",
    "wire.messages",
    "credentials schedule backends data narration",
    "transport",
    "session backends.torch",
    "distributed rollback_check",
    "run",
    "tuner loggers",
    "integrations federated",
)
"""From the ground up; rooms of one floor import nothing of one another."""
SERVER = (
    "core core.forecast core.laws",
    "core.evidence core.search",
    "core.stages",
    "core.policies",
    "core.job base",
    "access storage.drivers",
    "storage",
    "service storage.backups",
    "rpc",
    "history ops",
    "history.words",
    "web.charts",
    "web.pages",
    "report",
    "web.server",
    "process demo",
    "cli",
)
FLOORS = {
    f"{package}.{room}": floor
    for package, floors in (("lrpilot", CLIENT), ("tuner_server", SERVER))
    for floor, rooms in enumerate(floors)
    for room in rooms.split()
}
ABOVE_ALL = {"lrpilot", "tuner_server", "tuner_server.__main__"}
"""What users import or run."""
CLIENTS = {"tuner_server.cli", "tuner_server.demo"}
"""Rooms of the server's distribution that use the client as everybody does."""
TELLERS = {
    f"tuner_server.{room}"
    for room in ("history", "history.words", "web", "web.charts", "web.pages", "web.server", "report", "cli")
}
"""Rooms that tell what came of a job, whatever decided it."""
UNTOLD = {"tuner_server.core.policies", "tuner_server.core.forecast", "tuner_server.core.search"}
"""What decides: decisions tell all that is to be said of it."""
SHARED = {"lrpilot.v1", "lrpilot.wire", "lrpilot.wire.messages", "lrpilot.schedules"}
"""What a server may import of the client."""


@functools.cache
def _modules() -> dict[str, Path]:
    found = {}
    for package, root in PACKAGES.items():
        for path in (root / package).rglob("*.py"):
            found[".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = path
    return {name: path for name, path in found.items() if "lrpilot.v1." not in name}


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """Modules of ours that it imports, lazily or for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(_modules()[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module
            found |= {
                name if (name := f"{node.module}.{alias.name}") in _modules() else node.module for alias in node.names
            }
    return frozenset(name for name in found - {module} if name.partition(".")[0] in PACKAGES)


def _room(module: str) -> str:
    parts = module.split(".")
    return next((room for n in (3, 2) if (room := ".".join(parts[:n])) in FLOORS), module)


def _arrows() -> Iterator[tuple[str, str]]:
    for module in _modules():
        for imported in _imports(module):
            yield module, imported


def _forbidden(module: str, imported: str) -> str:
    """Why a module must not import another; empty: it may."""
    here, there = _room(module), _room(imported)
    if here == there or here in ABOVE_ALL:
        return ""
    if module.startswith("lrpilot") and imported.startswith("tuner_server"):
        return "the client knows no server"
    if module.startswith("tuner_server") and imported.startswith("lrpilot"):
        return "" if there in SHARED or here in CLIENTS else "a server imports of the client what both must read alike"
    if {here.split(".")[1], there.split(".")[1]} == {"web", "cli"}:
        return "the dashboard and the command line both tell a history, and know nothing of one another"
    if here in TELLERS and there in UNTOLD:
        return "decisions explain themselves: who tells of them knows no policy, and nothing that one is made of"
    return "" if FLOORS[there] < FLOORS[here] else "it lies no lower"


def test_every_module_is_in_a_room() -> None:
    assert {_room(module) for module in _modules()} <= set(FLOORS) | ABOVE_ALL | {"tuner_server.web"}


def test_arrows_run_down() -> None:
    assert [f"{a} -> {b}: {why}" for a, b in sorted(set(_arrows())) if (why := _forbidden(a, b))] == []


def test_the_table_of_rooms_has_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*)\| (.*)\|$", page, re.MULTILINE)
    assert [int(floor) for floor, *_ in rows] == [*range(1, len(SERVER) + 1)]
    for column, floors in ((1, CLIENT), (2, SERVER)):
        told = [{room.replace("/", ".") for room in re.findall(r"`([\w/]+)`", row[column])} for row in rows]
        assert [rooms for rooms in told if rooms] == [set(floor.split()) for floor in floors]


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {module: {name for name in _imports(module) if name in _modules()} for module in _modules()}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("lrpilot.wire.profile", "lrpilot.run.driver"),
        ("lrpilot.run.driver", "tuner_server.core.messages"),
        ("tuner_server.core.config", "tuner_server.storage.base"),
        ("tuner_server.core.job.machine", "lrpilot.schedule.schedule"),
        ("tuner_server.cli.job", "tuner_server.web.pages.views"),
        ("tuner_server.web.pages.views", "tuner_server.cli.job"),
        ("tuner_server.core.search.bracket", "tuner_server.core.evidence.divergence"),
        ("tuner_server.history.words.method", "tuner_server.core.policies.autolrs"),
        ("tuner_server.history.timeline", "tuner_server.history.words.changes"),
        ("tuner_server.web.charts.forecasts", "tuner_server.core.forecast.base"),
        ("tuner_server.web.pages.views", "tuner_server.core.search.acquisition"),
        ("tuner_server.report.report_file", "tuner_server.core.policies"),
        ("tuner_server.cli.picture", "tuner_server.core.policies"),
    ],
)
def test_what_the_plan_forbids_is_seen(module: str, imported: str) -> None:
    assert _forbidden(module, imported)
