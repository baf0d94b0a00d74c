"""Losses that show a mistake in the training loop, and nothing of the LR."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from lrpilot.v1 import tuner_pb2 as pb

FEWEST = 3
"""Losses of a probe that tell anything: the first one comes before any update."""

log = logging.getLogger("lrpilot")


class Suspicion:
    """Looks at the losses of a run as they are reported, and warns of each mistake once."""

    def __init__(self) -> None:
        """Has seen nothing yet."""
        self._lrs: list[float] = []
        # Those of the first probe of a search, as far as all of its probes had them. None: they were not all alike.
        self._losses: list[float] | None = []
        self._searched = False

    def reported(self, directive: pb.Directive, losses: Sequence[float], *, untrained: bool) -> None:
        """Takes note of a report.

        Args:
            directive: what was carried out.
            losses: those of its steps, or of the last part of them.
            untrained: whether the first of them is that of a model that has not been updated yet.
        """
        if directive.phase == pb.PHASE_PROBE:
            self._compare(directive.profile.start_lr, losses)
        if untrained and losses and not math.isfinite(losses[0]):
            log.warning(
                "lrpilot: the first loss is %g, before any update, so no LR is the cause: look for what is not finite "
                "in the data, the model or the loss",
                losses[0],
            )

    def search_over(self) -> None:
        """Compares what was seen of the first search: committed steps begin."""
        lrs, alike = self._lrs, self._losses
        self._lrs, self._losses = [], []
        first, self._searched = not self._searched, self._searched or bool(lrs)
        if not first or not alike or len(set(lrs)) < 2:
            return  # what a run has learnt may leave nothing to be learnt
        log.warning(
            "lrpilot: the losses of %d probes are the same at all LRs from %.3g to %.3g, so the updates change nothing "
            "that the loss depends on: is loss.backward() missing, are the gradients zeroed before optimizer.step(), "
            "are the weights frozen, or is the loss that of another model than the optimizer's?",
            len(lrs),
            min(lrs),
            max(lrs),
        )

    def _compare(self, lr: float, losses: Sequence[float]) -> None:
        if self._losses is None:
            return
        kept = min(len(losses), len(self._losses)) if self._lrs else len(losses)
        same = not self._lrs or list(losses[:kept]) == self._losses[:kept]
        self._lrs.append(lr)
        sound = kept >= FEWEST and all(map(math.isfinite, losses))
        self._losses = list(losses[:kept]) if same and sound else None
