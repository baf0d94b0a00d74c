"""News of what comes after the latest release: fragments that `towncrier build` can gather, and people can read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEWS = ROOT / "changelog.d"
KINDS = ("added", "changed", "fixed", "removed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of our configuration and changelog, with no news yet."""
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "changelog.d").mkdir()
    shutil.copy(NEWS / "README.md", tmp_path / "changelog.d")
    return tmp_path


def build(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "towncrier", "build", "--version", "9.9.9", "--date", "2030-01-02", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)


def test_the_fragments_make_a_draft() -> None:
    drafted = build(ROOT, "--draft")
    assert drafted.returncode == 0, drafted.stderr
    assert drafted.stdout.startswith("## 9.9.9 - 2030-01-02\n")


@pytest.mark.parametrize("fragment", sorted(NEWS.glob("*.*.md")), ids=lambda fragment: fragment.name)
def test_a_fragment_holds_whole_sentences(fragment: Path) -> None:
    text = fragment.read_text().strip()
    assert text.endswith(".")
    assert not text.startswith(("-", "*", "#")), "the bullet is towncrier's"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_heading(kind: str, project: Path) -> None:
    (project / "changelog.d" / f"+word.{kind}.md").write_text("What is new.\n")
    assert f"### {kind.capitalize()}\n\n- What is new.\n" in build(project, "--draft").stdout


@pytest.mark.parametrize("name", ["+word.feature.md", "word.md", "notes.txt"])
def test_a_fragment_of_another_name_fails(name: str, project: Path) -> None:
    (project / "changelog.d" / name).write_text("What is new.\n")
    drafted = build(project, "--draft")
    assert drafted.returncode != 0
    assert f"Invalid news fragment name: {name}" in drafted.stderr


def test_a_release_goes_above_the_former_ones_and_takes_the_fragments(project: Path) -> None:
    former = (project / "CHANGELOG.md").read_text()
    fragment = project / "changelog.d" / "128.fixed.md"
    fragment.write_text("What was mended.\n")
    subprocess.run(["git", "init", "--quiet"], cwd=project, timeout=60, check=True)
    written = build(project, "--yes")
    assert written.returncode == 0, written.stderr
    intro, line, releases = (project / "CHANGELOG.md").read_text().partition("below this line. -->\n")
    assert intro + line == "".join(former.partition("below this line. -->\n")[:2])
    assert releases.lstrip().startswith("## 9.9.9 - 2030-01-02\n\n### Fixed\n\n- What was mended. (#128)\n")
    assert "\n## 0.1.0 - 2026-11-28\n" in releases
    assert not fragment.exists()
    assert [path.name for path in (project / "changelog.d").iterdir()] == ["README.md"]
