"""The comparison as a picture: what each guessed LR came to, and the tuned runs, which had no guess."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tuner_server.demo.contestants import Decayed
from tuner_server.demo.standing import Standing


def plot(standings: Sequence[Standing], path: Path) -> None:
    """Draws the final losses over the LR, a point a run, and writes the picture."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    guesses = [(each, each.contestant.lr) for each in standings if isinstance(each.contestant, Decayed)]
    for seed in range(len(standings[0].results)):
        losses = [each.results[seed].validation_loss for each, _ in guesses]
        axis.plot([lr for _, lr in guesses], losses, "o-", color="tab:gray", alpha=0.6)
    axis.plot([], [], "o-", color="tab:gray", label=f"linear decay from a guess: {len(guesses)} runs a seed")
    tuned = [each for each in standings if not isinstance(each.contestant, Decayed)]
    for each, colour in zip(tuned, ("tab:blue", "tab:orange"), strict=False):
        for i, result in enumerate(each.results):
            label = f"{each.name}: one run a seed" if i == 0 else None
            axis.axhline(result.validation_loss, color=colour, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("guessed LR")
    axis.set_ylabel("final validation loss")
    axis.legend()
    figure.savefig(path, dpi=120)
