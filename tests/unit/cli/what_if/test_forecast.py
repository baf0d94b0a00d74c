"""`lrpilot forecast` on the file of a schedule; tests/e2e/test_cli.py asks a server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lrpilot.wire import schedule_file
from typer.testing import CliRunner, Result

from tests.support.jobs.annealing_training import AnnealingTraining
from tests.support.jobs.sample_jobs import history, job_config, stored
from tests.support.jobs.simulated_training import drive
from tuner_server.cli.app import app
from tuner_server.history.schedule_data import data_of_schedule


def _file(path: Path, max_directives: int) -> Path:
    run = drive(job_config("planted", validates=False), AnnealingTraining(), max_directives=max_directives)
    path.write_text(schedule_file.dumps(data_of_schedule(stored(run.state), history(run))))
    return path


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _file(tmp_path_factory.mktemp("forecast") / "half.json", 22)


def _run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}).invoke(
        app, ["forecast", *map(str, arguments)]
    )


def _json(*arguments: object) -> dict[str, Any]:
    result = _run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_what_is_asked_for_stands_beside_annealing_now(half_way: Path) -> None:
    found = _json(half_way, "--schedule", "cosine", "--steps", 1000)
    [asked], now = found["forecasts"]["asked"], found["forecasts"]["annealing_now"]
    assert (asked["steps"], now["steps"]) == (1000, 179)
    assert asked["end_step"] == 1793 + 1000
    assert asked["loss"] < now["loss"]
    assert 0 < asked["standard_error"] < 0.1
    assert found["forecasts"]["planned"] is None  # a file does not tell it
    assert found["fitted_to"] == "training loss"
    assert found["r_squared"] > 0.9


def test_by_default_the_lr_falls_along_a_line_over_a_tenth(half_way: Path) -> None:
    found = _json(half_way)
    [asked], now = found["forecasts"]["asked"], found["forecasts"]["annealing_now"]
    assert now.items() <= asked.items()


def test_a_table_says_it_in_words(half_way: Path) -> None:
    shown = " ".join(_run(half_way, "--schedule", "wsd(0.3)", "--steps", "900", "--from-start").output.split())
    assert "training loss = " in shown
    assert "means of training losses, of whose variance the law explains" in shown
    assert "wsd/linear(0.3) from the start 900 900 " in shown
    assert "annealing now 179 1 972 " in shown
    assert "The evidence is thin" not in _run(half_way, "--steps", "900").output


def test_thin_evidence_is_called_so(tmp_path: Path) -> None:
    shown = _run(_file(tmp_path / "early.json", 13), "--steps", "3000").output
    assert "The evidence is thin" in shown


def test_a_picture_is_drawn(half_way: Path, tmp_path: Path) -> None:
    file = tmp_path / "forecast.png"
    assert _run(half_way, "--from-start", "-o", file).exit_code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--peak", "0.9"), "job: nothing can be forecast: LR 0.9 is above 0.35, the highest that the run has seen"),
        (("--peak", "0"), "peak: 0 is no LR to fall from"),
        (("--schedule", "nonsense"), "schedule: shape: 'nonsense' is not known"),
        (("--schedule", "exponential"), "schedule: profile: an exponential never reaches zero"),
        (("-o", "nowhere/at.png"), "output: nowhere/at.png: No such file or directory"),
        (("-o", "at.nothing"), "output: Format 'nothing' is not supported"),
    ],
)
def test_what_cannot_be_forecast_is_bad_input(half_way: Path, arguments: tuple[str, ...], words: str) -> None:
    result = _run(half_way, *arguments)
    assert result.exit_code != 0
    assert words in str(result.exception)


@pytest.mark.parametrize(("max_directives", "words"), [(5, "no step is committed yet"), (12, "it takes 100")])
def test_too_little_evidence_is_told_in_one_line(tmp_path: Path, max_directives: int, words: str) -> None:
    result = _run(_file(tmp_path / "early.json", max_directives))
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_run_that_ended_at_zero_rises_again_as_an_extension_would(tmp_path: Path) -> None:
    file = _file(tmp_path / "ended.json", 10_000)
    n_steps = len(json.loads(file.read_text())["losses"])
    found = _json(file, "--schedule", "cosine", "--steps", n_steps)
    [asked] = found["forecasts"]["asked"]
    assert asked["peak"] == pytest.approx(0.35 / 2, rel=0.01)
    assert asked["end_step"] == 2 * n_steps
    assert found["forecasts"]["annealing_now"] is None
    shown = " ".join(_run(file, "--schedule", "cosine", "--steps", n_steps).output.split())
    assert "The LR has decayed to 0, so it is forecast to rise to 0.175 again, as if the run were extended by" in shown
    assert "from its peak of 0.35" in shown


def test_a_run_that_ended_at_zero_is_forecast_from_its_start(tmp_path: Path) -> None:
    file = _file(tmp_path / "ended.json", 10_000)
    found = _json(file, "--from-start", "--schedule", "linear")
    [asked] = found["forecasts"]["asked"]
    last = json.loads(file.read_text())["losses"][-20:]
    assert asked["loss"] == pytest.approx(sum(last) / len(last), abs=max(3 * asked["standard_error"], 0.01))


def test_several_schedules_have_a_row_each(half_way: Path, tmp_path: Path) -> None:
    arguments = (half_way, "--schedule", "cosine", "--schedule", "one_cycle", "--steps", 900)
    assert [one["schedule"] for one in _json(*arguments)["forecasts"]["asked"]] == ["cosine", "one_cycle"]
    shown = " ".join(_run(*arguments, "-o", tmp_path / "several.png").output.split())
    assert "cosine from now on 900" in shown
    assert re.search(r"one_cycle\S* from now on 900 2.693 0.00663 to 0.166 to ", shown)  # it rises first


def test_what_is_neither_a_job_nor_a_file_is_called_so() -> None:
    assert "there is no file missing.json" in str(_run("missing.json").exception)
