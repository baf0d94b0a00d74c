"""What the experiment on other hyperparameters makes of its runs."""

from __future__ import annotations

from benchmarks.hyperparameters.report import draw, markdown, markdown_of_longer, rows
from benchmarks.hyperparameters.runs import LONG_SEEDS, LONG_STEPS, LONGER_PROBES, SEEDS, SETTINGS, Run, swept

FIRST = SETTINGS[0]
RUNS = [
    Run(setting.group, setting.value, seed, tuned, lr, loss)
    for setting in SETTINGS
    for seed in (0, 1)
    for tuned, lr, loss in ((False, setting.lrs[0], 0.4), (False, setting.lrs[1], 0.2 + seed), (True, 0.05, 0.3))
]


def test_the_best_of_a_sweep_is_the_best_over_the_seeds() -> None:
    row = rows(RUNS)[0]
    assert swept(RUNS[:6]) == {FIRST.lrs[0]: 0.4, FIRST.lrs[1]: 0.7}
    assert (row.best_lr, row.best_loss, row.found_lrs, row.tuned_loss) == (FIRST.lrs[0], 0.4, (0.05, 0.05), 0.3)
    assert "| weight decay (AdamW) | 0 | 0.0003 | 0.400 | 0.05 (0.05 to 0.05) | 0.300 |" in markdown(rows(RUNS))


def test_a_run_that_diverged_makes_its_lr_the_worst() -> None:
    diverged = Run(FIRST.group, FIRST.value, 2, False, FIRST.lrs[0], None)
    assert rows([*RUNS, diverged])[0].best_lr == FIRST.lrs[1]


def test_longer_probes_are_for_settings_that_there_are() -> None:
    assert LONGER_PROBES.keys() <= {(setting.group, setting.value) for setting in SETTINGS}
    (group, value), probe_steps = next(iter(LONGER_PROBES.items()))
    runs = [
        Run(group, value, 0, False, 0.01, 0.1, LONG_STEPS),
        Run(group, value, 0, True, 0.1, 0.3, LONG_STEPS),
        Run(group, value, 0, True, 0.02, 0.2, LONG_STEPS, probe_steps),
    ]
    table = markdown_of_longer(runs)
    assert f"| {group} {value:g} | 0.01 | 0.100 | 20, the default | 0.1 (0.300) | 0.300 |" in table
    assert set(LONG_SEEDS).isdisjoint(SEEDS), "the lengths were chosen on those"
    assert f"| {group} {value:g} | 0.01 | 0.100 | {probe_steps} | 0.02 (0.200) | 0.200 |" in table


def test_the_picture_has_a_panel_for_what_is_varied() -> None:
    assert len(draw(RUNS).axes) == len({setting.group for setting in SETTINGS})
