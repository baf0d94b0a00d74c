import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.divergence import BAD_LOSSES

from benchmarks.load import __main__ as load
from benchmarks.load.fleet import Arrival, Window
from benchmarks.load.latencies import histogram, merged, percentile_ms, record
from benchmarks.load.measure import Measurement, Settings
from benchmarks.load.optuna_proxy import Contest
from benchmarks.load.report import as_markdown, plot
from benchmarks.load.summary import compared, latency, summarise
from benchmarks.load.tally import ATTEMPT_S, Recorder, together
from benchmarks.load.workload import CURVE_STEPS, START_LOSS, Kind, SimulatedJob, kind_of, load_curves, plans

RISING = tuple(1.0 + i for i in range(CURVE_STEPS))
FALLING = tuple(reversed(RISING))


def simulated(n_jobs: int = 1) -> SimulatedJob:
    return SimulatedJob(plans(n_jobs, seed=0)[-1], [RISING, FALLING])


def measurement(
    n_jobs: int = 8, seed: int = 0, *, window: Window | None = None, latency_s: float = 0.01, unsent: float = 0.0
) -> Measurement:
    recorder = Recorder()
    for _ in range(6):
        recorder.answered(Kind.PLAIN, latency_s, latency_s / 2)
    for _ in range(4):
        recorder.answered(Kind.SEARCH, 2 * latency_s, latency_s)
    recorder.unsent = unsent
    return Measurement(
        database="sqlite",
        n_jobs=n_jobs,
        seed=seed,
        window=window or Window(Arrival.BURST, 2.0),
        tally=recorder.tally(elapsed_s=2.0, cpu_s=0.01),
        server_cpu_s=0.03 * (seed + 1),
        database_cpu_s=0.0,
        rss_per_job_bytes=2048.0,
    )


@pytest.mark.parametrize(
    ("reported", "answer", "kind"),
    [
        (pb.PHASE_PROBE, pb.PHASE_PROBE, Kind.SEARCH),
        (pb.PHASE_PROBE, pb.PHASE_TRAIN, Kind.SEARCH),
        (pb.PHASE_TRAIN, pb.PHASE_PROBE, Kind.SEARCH),
        (pb.PHASE_TRAIN, pb.PHASE_TRAIN, Kind.PLAIN),
        (pb.PHASE_WARM_UP, pb.PHASE_WARM_UP, Kind.PLAIN),
        (pb.PHASE_TRAIN, pb.PHASE_STOP, Kind.PLAIN),
    ],
)
def test_a_report_on_a_probe_or_answered_by_one_takes_a_search(
    reported: pb.Phase.ValueType, answer: pb.Phase.ValueType, kind: Kind
) -> None:
    assert kind_of(reported, answer) is kind


def test_jobs_follow_from_the_seed_and_are_half_of_each_policy() -> None:
    assert plans(9, seed=3) == plans(9, seed=3)
    assert plans(9, seed=3) != plans(9, seed=4)
    assert Counter(plan.policy for plan in plans(64, seed=3)) == {"budget": 32, "autolrs": 32}
    assert {plan.policy for seed in (0, 1) for plan in plans(1, seed)} == {"budget", "autolrs"}


def test_every_life_of_a_job_is_a_request_of_its_own() -> None:
    job = simulated()
    first, second = job.request(), job.request()
    assert first.request_id != second.request_id
    assert first.config.policy == second.config.policy == "budget"


def test_a_report_has_the_losses_of_the_directive_or_of_its_next_part() -> None:
    job = simulated()
    whole = job.report(pb.Directive(number=3, phase=pb.PHASE_TRAIN, n_steps=70))
    part = job.report(pb.Directive(number=4, phase=pb.PHASE_TRAIN, n_steps=1000, report_every=250))
    assert (whole.directive_number, whole.outcome, len(whole.losses)) == (3, pb.OUTCOME_COMPLETED, 70)
    assert (part.directive_number, part.outcome, len(part.losses)) == (4, pb.OUTCOME_PARTIAL, 250)
    assert whole.losses[0] == part.losses[0] == FALLING[0]
    assert whole.losses[-1] == part.losses[-1] == FALLING[-1]


def test_a_report_ends_where_its_losses_diverge() -> None:
    job = SimulatedJob(plans(1, seed=0)[0], [RISING])
    report = job.report(pb.Directive(phase=pb.PHASE_PROBE, n_steps=CURVE_STEPS, give_up_above=9.5))
    assert report.outcome == pb.OUTCOME_DIVERGED
    assert list(report.losses) == pytest.approx(range(1, 10 + BAD_LOSSES))


def test_think_time_is_that_of_the_steps_on_average() -> None:
    job = simulated()
    report = pb.Report(losses=[1.0] * 100)
    times = [job.think_s(report, 0.005) for _ in range(2000)]
    assert sum(times) / len(times) == pytest.approx(0.5, rel=0.02)
    assert min(times) > 0


def test_recorded_curves_are_there() -> None:
    curves = load_curves()
    assert len(curves) > 10
    assert {curve[0] for curve in curves} == {START_LOSS}
    assert any(curve[-1] > 3 * START_LOSS for curve in curves)
    assert any(curve[-1] < START_LOSS / 2 for curve in curves)


def test_committed_steps_stay_far_from_divergence() -> None:
    job = SimulatedJob(plans(1, seed=0)[0], load_curves())
    directive = pb.Directive(phase=pb.PHASE_TRAIN, n_steps=1000, report_every=50, give_up_above=2 * START_LOSS)
    assert {job.report(directive).outcome for _ in range(200)} == {pb.OUTCOME_PARTIAL}


def test_percentiles_of_merged_histograms_are_those_of_all_values() -> None:
    fast, slow = histogram(), histogram()
    for _ in range(980):
        record(fast, 0.001)
    for _ in range(20):
        record(slow, 1.0)
    whole = merged([fast.encode(), slow.encode(), histogram().encode()])
    assert whole.get_total_count() == 1000
    assert percentile_ms(whole, 50) == pytest.approx(1.0, rel=1e-3)
    assert percentile_ms(whole, 99) == pytest.approx(1000.0, rel=1e-3)
    assert percentile_ms(histogram(), 99) is None


def test_no_latency_is_lost_for_being_too_short_or_too_long() -> None:
    into = histogram()
    for seconds in (0.0, 1e-9, 1e9):
        record(into, seconds)
    assert into.get_total_count() == 3


def test_tallies_add_up() -> None:
    one, other = Recorder(), Recorder()
    one.answered(Kind.PLAIN, 0.1, 0.1)
    one.failed("UNAVAILABLE")
    other.answered(Kind.SEARCH, ATTEMPT_S + 2, ATTEMPT_S + 1)
    other.answered(Kind.CREATE, 0.1, 0.1)
    other.failed("UNAVAILABLE")
    other.unsent = 2.5
    both = together([one.tally(2.0, 0.5), other.tally(3.0, 0.25)])
    assert (both.n_reports, both.count(Kind.CREATE)) == (2, 1)
    assert both.errors == {"UNAVAILABLE": 2}
    assert (both.too_slow, both.unsent, both.elapsed_s, both.cpu_s) == (1, 2.5, 3.0, 0.75)


def test_latency_of_several_seeds_has_the_range_over_them() -> None:
    fast, slow = histogram(), histogram()
    record(fast, 0.001)
    record(slow, 1.0)
    row = latency([fast.encode(), slow.encode()])
    assert row["count"] == 2
    assert row["p99_range"] == pytest.approx([1.0, 1000.0], rel=1e-3)
    assert latency([histogram().encode()])["p99_range"] is None


def test_a_row_is_made_of_all_seeds_of_a_point() -> None:
    rows = summarise([measurement(8, 0), measurement(64, 0), measurement(8, 1)])
    assert [(row["jobs"], row["seeds"]) for row in rows] == [(8, [0, 1]), (64, [0])]
    row = rows[0]
    assert row["done_per_s"]["median"] == 5.0
    assert row["server_cpu_ms"]["range"] == pytest.approx([3.0, 6.0])
    assert row["latency_ms"][Kind.SEARCH]["p50"] == pytest.approx(20.0, rel=1e-3)
    assert row["round_trip_ms"][Kind.SEARCH]["p50"] == pytest.approx(10.0, rel=1e-3)
    assert row["latency_ms"][Kind.PLAIN]["count"] == 12


@pytest.mark.parametrize(("unsent", "saturated"), [(0.0, False), (10.0, True)])
def test_a_server_that_leaves_reports_undone_is_saturated(unsent: float, saturated: bool) -> None:
    (row,) = summarise([measurement(window=Window(Arrival.SPREAD, 2.0, 0.005), unsent=unsent)])
    assert row["offered_per_s"]["median"] == (10 + unsent) / 2
    assert row["saturated"] is saturated


def test_optuna_is_compared_within_the_seed() -> None:
    latencies = histogram()
    for _ in range(5):
        record(latencies, 0.1)
    contest = Contest("TPE", 8, 1, latencies.encode(), 0, elapsed_s=2.0, server_cpu_s=0.3, clients_cpu_s=0.05)
    (row,) = compared([contest], [measurement(8, 0, latency_s=1.0), measurement(8, 1)])
    ratios = {key: ratio["median"] for key, ratio in row["ratios"].items()}
    assert ratios["p50"] == pytest.approx(0.1 / 0.02, rel=1e-2)
    assert ratios["cpu"] == pytest.approx((0.35 / 5) / (0.07 / 10))
    assert ratios["done_per_s"] == pytest.approx(0.5)


def test_tables_and_plot_show_points_without_searches(tmp_path: Path) -> None:
    quiet = measurement(window=Window(Arrival.SPREAD, 2.0, 0.005))
    recorder = Recorder()
    recorder.answered(Kind.PLAIN, 0.004, 0.004)
    rows = summarise([quiet, measurement(1, window=quiet.window), measurement(8)])
    (alone,) = summarise([Measurement("sqlite", 1, 0, quiet.window, recorder.tally(2.0, 0.0), 0.0, 0.0, 0.0)])
    table = as_markdown([*rows, alone], [])
    assert "| sqlite | 1 | spread, 5 ms a step | 0.5 | 0.5 | 0% | (4) / (4) / (4) |  | 0 | 0 |" in table
    plot([*rows, alone], [], tmp_path / "load.png")
    assert (tmp_path / "load.png").stat().st_size > 0


def test_windows_go_from_light_to_heavy() -> None:
    windows = Settings(seconds=2.0, steps_s=[0.005, 0.05], workers=1, client_processes=1).windows
    assert [(window.arrival, window.step_s) for window in windows] == [
        (Arrival.SPREAD, 0.05),
        (Arrival.SPREAD, 0.005),
        (Arrival.BURST, 0.0),
    ]


@pytest.mark.slow
def test_a_small_run_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = tmp_path / "load.json", tmp_path / "load.png"
    command = (
        f"load --jobs 2 --seconds 1 --step-ms 1 --seeds 1 --clients 1 --optuna-most 0 --json {file} --plot {picture}"
    )
    monkeypatch.setattr(sys, "argv", command.split())
    load.main()
    results = json.loads(file.read_text())
    spread, burst = results["load"]
    assert (spread["arrival"], burst["arrival"]) == ("spread", "burst")
    for row in (spread, burst):
        assert row["errors"] == {}
        assert row["done_per_s"]["median"] > 0
        assert row["server_cpu_ms"]["median"] > 0
    assert burst["latency_ms"]["plain"]["p50"] > 0
    assert "| sqlite | 2 | burst |" in capsys.readouterr().out
    assert picture.stat().st_size > 0
