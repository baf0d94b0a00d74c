from __future__ import annotations

import importlib
import subprocess
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests import gpu_environment
from tests.gpu_environment import NEEDED, Environment, bounds, chosen, described, fill, make, number

EXTRAS = {"": ["grpcio>=1.85"], "server": ["numpy>=2"], "demo": ["torch>=2.8"]}


def wheel(folder: Path, name: str, *requires: str) -> None:
    """Writes the smallest wheel that pip installs."""
    about = f"{name}-1.0.dist-info"
    lines = [f"Requires-Dist: {each}" for each in requires]
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "HERE = True\n")
        file.writestr(
            f"{about}/METADATA", "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines])
        )
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


def torch(version: str = "2.9.1+cu128", cuda: str | None = "12.8", *, available: bool = True) -> Any:
    functions = types.SimpleNamespace(is_available=lambda: available, get_device_name=lambda: "a card")
    return types.SimpleNamespace(__version__=version, version=types.SimpleNamespace(cuda=cuda), cuda=functions)


def test_all_that_is_needed_has_a_bound_of_the_projects() -> None:
    extras = bounds((gpu_environment.ROOT / "pyproject.toml").read_text())
    assert [each.partition(">=")[0] for each in chosen(extras, NEEDED)] == list(NEEDED)


def test_versions_compare_by_number() -> None:
    assert number("2.10.0+cu130") > number("2.9.1") > number("2.8.0a0+git123")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (torch("2.7.1"), "too old: the client wants torch>=2.8"),
        (torch(cuda=None), "built without CUDA"),
        (torch(available=False), "sees no CUDA device"),
    ],
)
def test_one_line_says_what_is_wrong_with_pytorch(monkeypatch: pytest.MonkeyPatch, found: Any, said: str) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda _: found)
    with pytest.raises(SystemExit, match=said):
        described(EXTRAS)


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", lambda _: torch())
    assert described(EXTRAS).startswith("a card, PyTorch 2.9.1+cu128, Python 3.")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no folder of wheels"):
        make(tmp_path / "environment", tmp_path / "nowhere")


def test_what_is_missing_comes_from_the_folder_and_what_is_beneath_stays_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(tmp_path, "lrpilot_missing", "lrpilot_beneath_it", "pytest")
    wheel(tmp_path, "lrpilot_beneath_it")
    environment = Environment(tmp_path / "environment", tmp_path)
    assert environment.install(["lrpilot_missing>=1"]) == ""
    program = "import lrpilot, lrpilot_missing, lrpilot_beneath_it, pytest, torch; print(lrpilot.__file__)"
    monkeypatch.delenv("PYTHONPATH", raising=False)
    done = subprocess.run([environment.python, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith(str(gpu_environment.ROOT / "client")), done.stderr


def test_one_line_says_what_no_test_runs_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_environment, "NEEDED", ("lrpilot_missing",))
    environment = Environment(tmp_path / "environment", tmp_path)
    with pytest.raises(
        SystemExit, match=r"Without lrpilot_missing>=1 no test runs.*No matching distribution"
    ) as caught:
        fill(environment, {"": ["lrpilot_missing>=1"]})
    assert "\n" not in str(caught.value)


def test_what_is_not_needed_is_said_to_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_environment, "NEEDED", ())
    monkeypatch.setattr(gpu_environment, "FRAMEWORKS", ())
    fill(Environment(tmp_path / "environment", tmp_path), {"server": ["lrpilot_missing>=1"]})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Tests that need the server are skipped: ")
