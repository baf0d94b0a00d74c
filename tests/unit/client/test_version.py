from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import lrpilot
import pytest
import yaml
from typer.testing import CliRunner

from tuner_server.cli.app import app

ROOT = Path(__file__).parents[3]


def test_the_version_is_that_of_pyproject() -> None:
    """An environment that was installed before a bump is a stale one, and is told so here."""
    assert lrpilot.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_command_line_prints_the_same() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == lrpilot.__version__


def test_the_changelog_s_latest_release_is_the_version() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0].split()[1] == lrpilot.__version__


def test_kubernetes_runs_images_of_the_version() -> None:
    kustomization = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "kustomization.yaml").read_text())
    assert [image["newTag"] for image in kustomization["images"]] == [lrpilot.__version__]


def test_source_that_is_not_installed_says_that_its_version_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # where distributions are looked for
    assert lrpilot.__version__ == "0+unknown"


def test_it_is_looked_up_only_when_asked_for() -> None:
    code = "import lrpilot, sys; sys.exit('__version__' in vars(lrpilot) or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_an_unknown_name_is_still_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute '__revision__'"):
        lrpilot.__revision__  # noqa: B018
