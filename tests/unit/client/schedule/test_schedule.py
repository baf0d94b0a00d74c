import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lrpilot.errors import ScheduleError
from lrpilot.schedule.schedule import Schedule
from lrpilot.v1 import tuner_pb2
from lrpilot.wire.messages.profiles import profile_from_proto, profile_to_proto
from lrpilot.wire.phase import Phase
from lrpilot.wire.profile import Profile, Shape
from lrpilot.wire.schedule_data import Ending, Measured, Probe, Segment, Validation
from lrpilot.wire.weights import Weights

from tests.support.shapes import SHAPES

COSINE = Profile(Shape.COSINE, 0.3, 0.0, 10, offset=3)
RISE = Profile(Shape.LINEAR, 0.0, 0.1 + 0.2, 3)

SCHEDULE = Schedule(
    job_id="job-1",
    name="résnet",
    policy="budget",
    base_lrs=(0.1, 0.01),
    total_steps=20,
    segments=(
        Segment(0, 3, RISE, Phase.WARM_UP, -1),
        Segment(3, 4, COSINE, Phase.TRAIN, 0),
        Segment(7, 3, COSINE.after(4), Phase.TRAIN, 0),
    ),
    losses=(2.0, 1.9, math.nan, math.inf, 0.1),
    validations=(Validation(3, 1 / 3),),
    probes=(
        Probe(3, 2, Profile.constant(0.2, 2), Phase.PROBE, 0, (1.5, 1.4), (Validation(2, 1.3),), False),
        Probe(3, 2, Profile.constant(9.0, 5), Phase.PROBE, 0, (1.5, math.inf), (), True),
    ),
    measures=(Measured("gradient_norm", (0.5, math.nan, 1 / 3)),),
)
EMPTY = dataclasses.replace(SCHEDULE, segments=(), losses=(), validations=(), probes=(), measures=())


def applied() -> list[float]:
    return [s.profile.lr(i) for s in SCHEDULE.segments for i in range(s.n_steps)]


def test_lr_is_what_was_applied_and_the_last_holds() -> None:
    assert SCHEDULE.n_steps == 10
    assert [SCHEDULE.lr(step) for step in range(10)] == applied()
    assert SCHEDULE.lr(10) == SCHEDULE.lr(10**9) == applied()[-1]


@pytest.mark.parametrize(("schedule", "step"), [(EMPTY, 0), (SCHEDULE, -1)])
def test_there_is_no_lr_before_the_start_or_without_steps(schedule: Schedule, step: int) -> None:
    with pytest.raises(ScheduleError, match="no LR"):
        schedule.lr(step)


def test_gaps_and_overlong_losses_are_refused() -> None:
    first, _, last = SCHEDULE.segments
    with pytest.raises(ScheduleError, match="starts at 7, after 3 steps"):
        dataclasses.replace(SCHEDULE, segments=(first, last))
    with pytest.raises(ScheduleError, match="a segment of 0 steps"):
        dataclasses.replace(EMPTY, segments=(dataclasses.replace(first, n_steps=0),))
    with pytest.raises(ScheduleError, match="5 losses for 3 steps"):
        dataclasses.replace(SCHEDULE, segments=(first,))


def test_a_saved_schedule_comes_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    path.write_text("an older file")
    SCHEDULE.save(path)
    assert repr(Schedule.load(str(path))) == repr(SCHEDULE)  # repr, as nan is unlike itself.
    assert list(tmp_path.iterdir()) == [path]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)


def test_that_there_was_no_search_or_none_that_counts_survives_a_file_and_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(SCHEDULE, unsearched=True)
    path = tmp_path / "schedule.json"
    short.save(path)
    assert json.loads(path.read_text())["unsearched"] is True
    assert Schedule.load(path).unsearched
    assert "no search" in repr(Schedule.load(path))
    leaking = dataclasses.replace(SCHEDULE, unrepeatable="a counter is not put back")
    leaking.save(path)
    assert Schedule.load(path).unrepeatable == "a counter is not put back"
    assert "ended, a rollback failed: a counter is not put back" in leaking._repr_html_()
    titles = []
    monkeypatch.setattr("lrpilot.schedule.plot.write_title", lambda _title, words: titles.append(words))
    for schedule in (short, leaking, SCHEDULE):
        schedule.plot(tmp_path / "schedule.svg")
    assert titles == [
        "résnet · budget · job-1 · no search",
        "résnet · budget · job-1 · the search ended: a rollback failed",
        "résnet · budget · job-1",
    ]


MEAN = "the average of the last 149 steps"


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (
            Ending(Weights.AVERAGE, 148.8, last=0.085, average=0.083),
            f"{MEAN}: 0.083 against 0.085",
        ),
        (
            Ending(Weights.LAST, 148.8, last=0.083, average=0.085),
            f"the last weights: 0.083 against 0.085 for {MEAN}",
        ),
        (Ending(Weights.AVERAGE, 148.8), MEAN),
        (Ending(Weights.AVERAGE, 148.8, average=0.083), f"{MEAN}: 0.083 against none"),
        (Ending(Weights.LAST, 148.8, last=0.083), "the last weights"),
    ],
)
def test_which_weights_a_run_ended_with_survives_a_file_and_is_shown(
    tmp_path: Path, ending: Ending, words: str
) -> None:
    path = tmp_path / "schedule.json"
    schedule = dataclasses.replace(SCHEDULE, ending=ending)
    schedule.save(path)
    assert Schedule.load(path).ending == ending
    assert words == ending.words
    assert f"weights <b>{words}</b>" in schedule._repr_html_()
    assert "weights" not in SCHEDULE._repr_html_()


def test_a_file_of_an_earlier_release_says_nothing_of_a_search() -> None:
    from lrpilot.wire.schedule_file import loads

    assert not loads(broken(unsearched=None), Schedule).unsearched
    assert not loads(broken(unrepeatable=None), Schedule).unrepeatable
    assert loads(broken(ending=None), Schedule).ending is None


lrs = st.floats(0, allow_infinity=False, allow_nan=False)
segments = st.builds(
    lambda shape, start, end, n_steps, offset: (
        n_steps,
        Profile(shape, start, end, n_steps, offset),
    ),
    st.sampled_from([Shape.CONSTANT, Shape.LINEAR, Shape.COSINE]),
    lrs,
    lrs,
    st.integers(1, 5),
    st.integers(0, 3),
)


@given(st.lists(segments, min_size=1, max_size=4), st.lists(st.floats(), max_size=4))
def test_any_lrs_and_losses_survive_the_text_bit_for_bit(parts: list[tuple[int, Profile]], losses: list[float]) -> None:
    from lrpilot.wire.schedule_file import dumps, loads

    found, start = [], 0
    for n_steps, profile in parts:
        found.append(Segment(start, n_steps, profile, Phase.TRAIN, 0))
        start += n_steps
    schedule = dataclasses.replace(EMPTY, segments=tuple(found), losses=tuple(losses[:start]))
    loaded = loads(dumps(schedule), Schedule)
    assert repr(loaded) == repr(schedule)
    for step in range(start + 2):
        assert loaded.lr(step) == schedule.lr(step) or math.isnan(schedule.lr(step))


def test_a_save_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "schedule.json"
    SCHEDULE.save(path)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        EMPTY.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def broken(**changes: Any) -> str:
    from lrpilot.wire.schedule_file import dumps

    document = json.loads(dumps(SCHEDULE))
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", 'no "format": "lrpilot.schedule"'),
        (broken(format="other"), 'no "format": "lrpilot.schedule"'),
        (broken(version=2), "version 2 is not known to this LRPilot"),
        (broken(version=None), "version None is not known"),
        (broken(segments=None), "'segments' is missing"),
        (broken(segments=3), "not a valid schedule"),
        (broken(segments=[{"start_step": 0}]), "'n_steps' is missing"),
        (
            broken(
                segments=[
                    {
                        "start_step": 0,
                        "n_steps": 1,
                        "profile": {**dataclasses.asdict(RISE), "shape": "linear"},
                        "phase": "stop",
                    }
                ]
            ),
            "phase 'stop' has no steps",
        ),
        (broken(losses=["much"]), "could not convert string to float: 'much'"),
        (broken(losses=[0.0] * 11), "11 losses for 10 steps"),
        (broken(total_steps="many"), "not a valid schedule"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_reason(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    with pytest.raises(ScheduleError, match=rf"wrong\.json: .*{message}"):
        Schedule.load(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Schedule.load(tmp_path / "none.json")


def optimizer(lr: float | torch.Tensor = 0.1) -> torch.optim.SGD:
    groups: list[dict[str, Any]] = [
        {"params": [torch.nn.Parameter(torch.ones(1))]},
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.03},
    ]
    return torch.optim.SGD(groups, lr=lr, foreach=False)


def test_the_scheduler_replays_the_lrs_and_keeps_the_ratios() -> None:
    sgd = optimizer()
    scheduler = SCHEDULE.scheduler(sgd)
    ratio = 0.03 / 0.1
    for step in range(13):
        lr = SCHEDULE.lr(step)
        assert [group["lr"] for group in sgd.param_groups] == [lr, lr * ratio]
        assert scheduler.get_last_lr() == [lr, lr * ratio]
        sgd.step()
        scheduler.step()


def test_a_tensor_lr_is_filled_in_place() -> None:
    tensor = torch.tensor(0.1, dtype=torch.float64)
    sgd = optimizer(tensor)
    scheduler = SCHEDULE.scheduler(sgd)
    sgd.step()
    scheduler.step()
    assert sgd.param_groups[0]["lr"] is tensor
    assert tensor.item() == SCHEDULE.lr(1)


def test_a_scheduler_goes_on_from_its_state_dict(tmp_path: Path) -> None:
    sgd = optimizer()
    scheduler = SCHEDULE.scheduler(sgd)
    for _ in range(4):
        sgd.step()
        scheduler.step()
    torch.save([sgd.state_dict(), scheduler.state_dict()], tmp_path / "checkpoint")

    resumed = optimizer()
    resumed_scheduler = SCHEDULE.scheduler(resumed)
    of_optimizer, of_scheduler = torch.load(tmp_path / "checkpoint", weights_only=True)
    resumed.load_state_dict(of_optimizer)
    resumed_scheduler.load_state_dict(of_scheduler)
    assert resumed_scheduler.get_last_lr() == [SCHEDULE.lr(4), SCHEDULE.lr(4) * (0.03 / 0.1)]
    resumed.step()
    resumed_scheduler.step()
    assert resumed.param_groups[0]["lr"] == SCHEDULE.lr(5)


def test_a_schedule_that_cannot_be_replayed_is_refused() -> None:
    with pytest.raises(ScheduleError, match="first parameter group's LR is 0"):
        SCHEDULE.scheduler(optimizer(lr=0.0))
    with pytest.raises(ScheduleError, match="no LR for step 0"):
        EMPTY.scheduler(optimizer())


@pytest.mark.parametrize("schedule", [SCHEDULE, EMPTY], ids=["full", "empty"])
@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot_writes_the_format_of_the_ending(schedule: Schedule, ending: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"plot.{ending}"
    schedule.plot(path)
    assert path.read_bytes().startswith(magic)


def test_plot_shows_probes_apart_and_is_scaled_by_the_committed_losses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures = []

    def keep(figure: Any, _file: Any, **_options: Any) -> None:
        figures.append(figure)

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", keep)
    huge = dataclasses.replace(SCHEDULE.probes[1], losses=(1.0, 1e30))
    dataclasses.replace(SCHEDULE, probes=(huge,)).plot(tmp_path / "plot.png")
    lr_axes, loss_axes = figures[0].axes
    assert lr_axes.get_yscale() == "log"
    assert lr_axes.lines[0].get_ydata().tolist() == applied()
    assert lr_axes.collections[0].get_offsets().tolist() == [[3, 9.0]]
    assert loss_axes.lines[-1].get_xdata().tolist() == [3, 4]
    assert loss_axes.get_ylim()[1] < 10


def test_plot_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ScheduleError, match="plot: Format 'doc' is not supported"):
        SCHEDULE.plot(tmp_path / "plot.doc")
    with pytest.raises(ScheduleError, match=r"plot: .*/plot has no ending that says the format; give \.png"):
        SCHEDULE.plot(tmp_path / "plot")
    assert not list(tmp_path.iterdir())
    monkeypatch.delitem(sys.modules, "lrpilot.schedule.picture")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ScheduleError, match="pip install matplotlib"):
        SCHEDULE.plot(tmp_path / "plot.png")


@pytest.mark.parametrize("shape", SHAPES)
def test_profiles_cross_the_wire(shape: Shape) -> None:
    profile = Profile(shape, 0.1, 0.3, 7, 2)
    assert profile_from_proto(profile_to_proto(profile)) == profile


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="'' is not known"):
        profile_from_proto(tuner_pb2.Profile(start_lr=0.1, end_lr=0.1, length=1))


def entry(
    phase: tuner_pb2.Phase.ValueType, losses: list[float], committed: bool, lr: float = 0.5
) -> tuner_pb2.HistoryEntry:
    profile = profile_to_proto(Profile.constant(lr, 4))
    diverged = not math.isfinite(losses[-1])
    return tuner_pb2.HistoryEntry(
        directive=tuner_pb2.Directive(phase=phase, stage=1, n_steps=4, profile=profile),
        report=tuner_pb2.Report(
            outcome=tuner_pb2.OUTCOME_DIVERGED if diverged else tuner_pb2.OUTCOME_COMPLETED,
            losses=losses,
            validations=[tuner_pb2.Validation(step=len(losses), loss=0.25)],
        ),
        committed=committed,
    )


def response() -> tuner_pb2.GetScheduleResponse:
    profile = profile_to_proto(COSINE)
    config = tuner_pb2.JobConfig(name="n", policy="budget", base_lr=0.1)
    train, probe = tuner_pb2.PHASE_TRAIN, tuner_pb2.PHASE_PROBE
    return tuner_pb2.GetScheduleResponse(
        job=tuner_pb2.Job(id="j", config=config),
        segments=[
            tuner_pb2.Segment(start_step=0, n_steps=2, profile=profile, phase=train, stage=0),
            tuner_pb2.Segment(start_step=2, n_steps=3, profile=profile, phase=train, stage=1),
        ],
        history=[
            entry(tuner_pb2.PHASE_WARM_UP, [3.0, 2.0], committed=True),
            entry(probe, [1.0, math.inf], committed=False, lr=9.0),
            entry(train, [7.0], committed=False),  # Undone by a resumption.
            entry(train, [1.5, 1.25], committed=True),
        ],
    )


def test_a_schedule_is_made_of_the_servers_answer() -> None:
    schedule = Schedule.from_response(response(), base_lrs=(0.1, 0.2))
    assert (schedule.job_id, schedule.name, schedule.policy) == ("j", "n", "budget")
    assert (schedule.base_lrs, schedule.total_steps, schedule.n_steps) == ((0.1, 0.2), None, 5)
    assert [schedule.lr(step) for step in range(2)] == [COSINE.lr(0), COSINE.lr(1)]
    assert schedule.losses == (3.0, 2.0, 1.5, 1.25)
    assert schedule.validations == (Validation(2, 0.25), Validation(4, 0.25))
    (probe,) = schedule.probes
    expected = Probe(2, 2, Profile.constant(9.0, 4), Phase.PROBE, 1, (1.0, math.inf), (Validation(2, 0.25),), True)
    assert probe == expected


def test_an_answer_without_history_or_with_a_budget_is_understood() -> None:
    message = response()
    del message.history[:]
    message.job.total_steps = 7
    schedule = Schedule.from_response(message)
    assert (schedule.base_lrs, schedule.total_steps) == ((0.1,), 7)
    assert (schedule.losses, schedule.probes) == ((), ())


def test_an_answer_that_makes_no_sense_is_refused() -> None:
    message = response()
    message.segments[0].phase = tuner_pb2.PHASE_STOP
    with pytest.raises(ScheduleError, match="job j: phase 5"):
        Schedule.from_response(message)


def test_schedules_are_read_without_torch_numpy_and_matplotlib(tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    SCHEDULE.save(path)
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'matplotlib', 'google.protobuf', 'grpc'): sys.modules[name] = None\n"
        "from lrpilot.schedule.schedule import Schedule\n"
        f"print(Schedule.load({str(path)!r}).lr(5))\n"
        "for name in ('google.protobuf', 'grpc'): del sys.modules[name]\n"
        "import lrpilot.schedule.from_proto\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(run.stdout) == SCHEDULE.lr(5)


def test_measures_are_had_by_name() -> None:
    assert SCHEDULE.measured("gradient_norm")[0] == 0.5
    assert SCHEDULE.measured("other") == ()


def test_there_are_no_more_values_than_steps() -> None:
    with pytest.raises(ScheduleError, match="11 values of norm for 10 steps"):
        dataclasses.replace(SCHEDULE, measures=(Measured("norm", (1.0,) * 11),))


def test_a_picture_of_a_long_run_has_few_points_and_shows_every_outlier() -> None:
    n = 300_000
    losses = [1.0] * n
    losses[77_777], losses[200_001], losses[100_000:100_500] = 9.0, 0.1, [math.nan] * 500
    lengths = {0: (123_456, 0.1), 123_456: (n - 123_456, 0.01)}
    parts = tuple(
        Segment(start, length, Profile.constant(lr, length), Phase.TRAIN, 0) for start, (length, lr) in lengths.items()
    )
    figure = dataclasses.replace(SCHEDULE, segments=parts, losses=tuple(losses), probes=(), validations=()).plot()
    lrs, losses_shown = (np.asarray(axes.lines[0].get_data()) for axes in figure.axes)
    assert max(lrs.shape[1], losses_shown.shape[1]) < 20_000
    drawn = dict(losses_shown.T.tolist())
    assert (drawn[77_777], drawn[200_001]) == (9.0, 0.1)
    assert any(math.isnan(loss) for step, loss in drawn.items() if 100_000 <= step < 100_500)
    lr_of = dict(lrs.T.tolist())
    assert (lr_of[123_455], lr_of[123_456], lr_of[n - 1]) == (0.1, 0.01, 0.01)
