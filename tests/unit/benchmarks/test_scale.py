"""The arithmetic and the simulation of huge runs: their laws, and the command line."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch.distributed as dist
from lrpilot.distributed.ranks import Ranks

from benchmarks.scale import __main__ as command
from benchmarks.scale import costs, places, report
from benchmarks.scale.channel import Channel, Times
from benchmarks.scale.costs import Costs, Waits
from benchmarks.scale.course import BEST_LRS, Part, course, longest
from benchmarks.scale.places import Place, place
from benchmarks.scale.run import HugeRun

RUN = HugeRun()
STEPS = 2000
WAITS = Waits(look=0.05, answer=0.06)


def channel(run: HugeRun, seed: int = 0) -> Channel:
    return Channel(run, np.random.default_rng(seed))


def steady(ranks: int) -> HugeRun:
    """A run whose messages all take 1 ms, and whose ranks come together."""
    return HugeRun(ranks=ranks, shards=1, hop_us=1e3, local_hop_us=1e3, hop_spread=1e-12, skew_ms=0)


def test_a_step_takes_six_operations_a_weight_and_token() -> None:
    assert RUN.step_s == pytest.approx(6 * 10e9 * 4_194_304 / (512 * 0.4 * 989e12))
    assert dataclasses.replace(RUN, weights=20e9).step_s == pytest.approx(2 * RUN.step_s)
    assert dataclasses.replace(RUN, ranks=1024).step_s == pytest.approx(RUN.step_s / 2)


def test_ten_billion_weights_in_fp32_are_234_megabytes_on_each_of_512_shards() -> None:
    assert RUN.snapshot_bytes == 10e9 * 12 / 512 == 234_375_000
    assert dataclasses.replace(RUN, weight_bytes=2, optimizer_bytes=4).snapshot_bytes == RUN.snapshot_bytes / 2
    assert RUN.snapshot_bytes * RUN.shards == RUN.weights * (RUN.weight_bytes + RUN.optimizer_bytes)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("weights", 0, "weights: 0 is not above 0"),
        ("skew_ms", -1, "skew_ms: -1 is not at least 0"),
        ("disk_gb", math.inf, "disk_gb: inf is not above 0 and finite"),
        ("steps", math.nan, "steps: nan is not"),
        ("shards", 500, "shards: 500 is no divisor of ranks, 512"),
        ("utilisation", 40, "utilisation: 40 is above 1"),
    ],
)
def test_a_number_that_can_not_be_is_named(field: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(RUN, **{field: value})


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 100])
def test_sums_go_up_a_tree_and_down_another(ranks: int) -> None:
    run, ready = steady(ranks), np.zeros(ranks)
    depth = max(rank.bit_count() for rank in range(ranks))  # a rank is told by the one without its highest bit
    assert channel(run).up(ready)[0] == pytest.approx(1e-3 * depth)  # and tells the one without its lowest
    assert depth <= math.ceil(math.log2(ranks))
    assert channel(run).broadcast(ready).max() == pytest.approx(1e-3 * depth)


def test_nobody_goes_on_before_the_last_has_come() -> None:
    run = steady(16)
    for late in range(16):
        ready = np.zeros(16)
        ready[late] = 5.0
        assert channel(run).mean(ready).min() >= 5.0
    told = np.zeros(16)
    told[0] = 5.0
    assert channel(run).broadcast(told).min() >= 5.0
    assert channel(run).answer(np.zeros(16)).min() >= run.server_ms * 1e-3


class _Told(Channel):
    """A channel that writes its collectives down."""

    def __init__(self) -> None:
        super().__init__(steady(2), np.random.default_rng(0))
        self.made: list[str] = []

    def up(self, ready: Times) -> Times:
        self.made.append("recv")
        return super().up(ready)

    def broadcast(self, ready: Times) -> Times:
        self.made.append("broadcast")
        return super().broadcast(ready)


def test_the_simulation_makes_the_collectives_of_the_client(tmp_path: Path) -> None:
    """On rank 0 of two, whose messages go nowhere."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        ranks = Ranks(dist.group.WORLD, 1.0)
        assert ranks._tree is not None
        ranks._tree._children = [1]
        with mock.patch.object(dist, "recv") as heard, mock.patch.object(dist, "broadcast") as told:
            heard.side_effect = lambda tensor, *_: tensor.fill_(-math.inf)
            calls = mock.Mock()
            calls.attach_mock(heard, "recv")
            calls.attach_mock(told, "broadcast")
            for real, simulated in ((lambda: ranks.mean([1.0]), "mean"), (lambda: ranks.broadcast(b"a"), "hear")):
                calls.reset_mock()
                real()
                channel = _Told()
                getattr(channel, simulated)(np.zeros(2))
                assert channel.made == [name for name, _, _ in calls.mock_calls]
        ranks.close()
    finally:
        dist.destroy_process_group()


def test_waits_grow_with_ranks_and_with_the_time_of_a_message() -> None:
    found = [costs.waits(dataclasses.replace(RUN, ranks=n, shards=1)) for n in (2, 16, 128)]
    for less, more in itertools.pairwise(found):
        assert less.look < more.look
        assert less.answer < more.answer
    slow = costs.waits(dataclasses.replace(RUN, ranks=16, shards=1, hop_us=5000))
    assert slow.look > found[1].look
    assert costs.waits(dataclasses.replace(RUN, ranks=16, shards=1)) == found[1]


@pytest.mark.parametrize(
    ("bounded", "validates"),
    [
        (True, True),
        (False, False),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
def test_a_course_makes_all_steps_of_its_job(bounded: bool, validates: bool) -> None:
    found = longest(STEPS, bounded=bounded, validates=validates)
    assert found.whole.steps == found.total_steps == STEPS
    assert found.whole == found.search + found.committed
    assert 0 < found.probe_steps <= found.search.steps < 0.2 * STEPS
    assert found.search.looks >= found.search.directives
    assert found.whole.snapshots == 1
    assert found.search.restores == found.search.directives - 1
    assert (found.search.validations > 0) == validates
    assert found.search.steps == max(
        course(STEPS, lr, bounded=bounded, validates=validates).search.steps for lr in BEST_LRS
    )


def test_a_search_takes_a_smaller_part_of_a_longer_run() -> None:
    shares = [longest(n).search.steps / n for n in (600, STEPS, 8000)]
    assert shares == sorted(shares, reverse=True)


def test_parts_of_a_search_add_up_to_its_time() -> None:
    own = Costs(RUN, longest(STEPS), Place.DEVICE, WAITS)
    search, asked = own.search, own.course.search
    assert search.steps == pytest.approx(asked.steps * RUN.step_s)
    assert search.looks == pytest.approx(asked.looks * WAITS.look)
    assert search.answers == pytest.approx(asked.reports * WAITS.answer)
    assert search.total == pytest.approx(
        search.steps + search.validations + search.copies + search.looks + search.answers
    )
    assert own.search_share == pytest.approx(search.total / (STEPS * RUN.step_s))
    assert own.search_gpu_hours == pytest.approx(search.total * 512 / 3600)
    assert Part(*range(9)) + Part(*range(9)) == Part(*(2 * i for i in range(9)))


def test_a_snapshot_is_the_slower_the_farther_away_it_lies() -> None:
    times = [Costs(RUN, longest(STEPS), where, WAITS).copy_s for where in (Place.DEVICE, Place.HOST, Place.DISK)]
    assert times == sorted(times)
    assert times[0] < times[2]


def test_places_follow_the_room_that_there_is() -> None:
    assert place(RUN) is Place.DEVICE
    large = HugeRun(weights=70e9, ranks=32, shards=32)
    assert place(large) is Place.HOST
    assert place(dataclasses.replace(large, host_gb=400)) is Place.DISK
    assert place(dataclasses.replace(large, host_gb=400, disk_gb=100)) is Place.REFUSED
    assert place(dataclasses.replace(large, weights=405e9)) is Place.MODEL_TOO_LARGE


def test_a_larger_model_never_lives_nearer() -> None:
    order = list(Place)
    rows = places.table(RUN, [2.0**i * 1e9 for i in range(10)], [8, 64, 512])
    for shards in (8, 64, 512):
        found = [order.index(row.place) for row in rows if row.shards == shards]
        assert found == sorted(found)


@pytest.mark.parametrize(
    ("value", "text"),
    [(7200.0, "2 h"), (90.0, "90 s"), (0.25, "250 ms"), (2e-5, "20 us")],
)
def test_times_have_the_unit_that_suits_them(value: float, text: str) -> None:
    assert report.seconds(value) == text


def test_the_page_counts_what_the_policy_asks_for_now() -> None:
    """The longest run is left out: to go through it takes fifteen seconds, and it asks for the same."""
    lines = (Path(__file__).parents[3] / "docs" / "scale.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    rows = {name: own[:2] for name, *own in cells}
    courses = [longest(n) for n in report.LENGTHS[:2]]
    told = {
        "probes": [one.search.directives for one in courses],
        "steps of the search": [one.search.steps for one in courses],
        "reports": [one.whole.reports for one in courses],
        "bytes of reports": [one.whole.bytes_up for one in courses],
        "bytes of answers": [one.whole.bytes_down for one in courses],
    }
    assert {name: rows[name] for name in told} == {name: [f"{n:,}" for n in own] for name, own in told.items()}


def test_the_command_takes_ones_own_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "LENGTHS", (STEPS,))
    monkeypatch.setattr(report, "RANKS", (2,))
    out = ["--json", str(tmp_path / "scale.json"), "--plots", str(tmp_path)]
    own = ["--weights", "70e9", "--ranks", "64", "--shards", "32", "--steps", "3000", "--no-bounds"]
    monkeypatch.setattr(sys, "argv", ["scale", *out, *own])
    command.main()
    text = capsys.readouterr().out
    assert "70 billion weights on 64 ranks, 32 of which share a copy" in text
    assert "without LR bounds" in text
    figures = json.loads((tmp_path / "scale.json").read_text())
    assert [one["total_steps"] for one in figures["lengths"]] == [STEPS, 3000]
    assert figures["lengths"][0]["place"] == "host"
    assert (tmp_path / "scale.png").stat().st_size > 10_000

    monkeypatch.setattr(sys, "argv", ["scale", *out, "--shards", "3"])
    with pytest.raises(SystemExit):
        command.main()
    assert "shards: 3 is no divisor of ranks" in capsys.readouterr().err
