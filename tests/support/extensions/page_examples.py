"""The examples of the pages on extending LRPilot, installed and loaded as those pages say."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

from tests.support.extensions.installed_packages import install
from tuner_server.core.policies.plugins import GROUP

FOLDER = Path(__file__).parents[3] / "docs" / "extending"
_TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def install_policy(folder: Path) -> None:
    """Installs the policy of its page into a folder, as the `pyproject.toml` of the page has it."""
    (text,) = _TOML.findall((FOLDER / "write-a-policy.md").read_text(encoding="utf-8"))
    project = tomllib.loads(text)["project"]
    policies = project["entry-points"][GROUP]
    modules = {place.partition(":")[0] for place in policies.values()}
    sources = {module: (FOLDER / f"{module}.py").read_text(encoding="utf-8") for module in modules}
    install(folder, project["name"], sources, policies)


def load(name: str) -> ModuleType:
    """An example, as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
