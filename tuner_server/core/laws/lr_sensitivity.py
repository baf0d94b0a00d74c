"""How much is lost by an LR that is not the best one.

The LR sensitivity of Wortsman et al. 2023 ("Small-scale proxies for large-scale Transformer training instabilities",
arXiv 2309.14322, section 2.2) is, over LRs that are evenly apart in their logarithms,

    S = mean over the LRs of min(loss(LR), loss_0) - loss*      loss* = min over the LRs of loss(LR)

with loss_0, the loss at initialisation: a run that diverged counts as one that learnt nothing, and as no more. S is in
the unit of the loss. Over the gain, loss_0 - loss*, it is a part of what the best run learnt: 0, every LR does as well
as the best one, and 1, all others learn nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_ROUNDING = 1e-9
"""What a log LR may lie beyond the known ones, as a product's rounding."""


def capped(loss: float, initial_loss: float) -> float:
    """What a run counts as: its final loss, but no more than the loss that it began with. NaN or infinite: diverged."""
    return min(loss, initial_loss) if math.isfinite(loss) else initial_loss


def lr_sensitivity(losses: Sequence[float], initial_loss: float) -> float:
    """S, at least 0, in the unit of the losses.

    Args:
        losses: The final losses at LRs that are evenly apart in log LR; NaN or infinite where a run diverged.
        initial_loss: The loss at initialisation, loss_0.

    Raises:
        ValueError: There is no loss.
    """
    if not losses:
        raise ValueError("losses: there is none; give that of one LR at least")
    found = [capped(loss, initial_loss) for loss in losses]
    return math.fsum(found) / len(found) - min(found)


def lost_share(loss: float, best: float, initial_loss: float) -> float:
    """The part of what the best run gained that another one lacks, from 0 to 1.

    Args:
        loss: That of the other one; NaN or infinite: it diverged.
        best: That of the best one, below `initial_loss`.
        initial_loss: The loss at initialisation.
    """
    return max(capped(loss, initial_loss) - best, 0.0) / (initial_loss - best)


def relative_lr_sensitivity(losses: Sequence[float], initial_loss: float) -> float | None:
    """S as a part of what the best run gained, from 0 to 1; None: no run ended below the loss at initialisation.

    Args:
        losses: As those of `lr_sensitivity`.
        initial_loss: Likewise.

    Raises:
        ValueError: There is no loss.
    """
    sensitivity = lr_sensitivity(losses, initial_loss)
    gain = initial_loss - min(capped(loss, initial_loss) for loss in losses)
    return sensitivity / gain if gain > 0 else None


def loss_off_by(
    lrs: Sequence[float], losses: Sequence[float], lr: float, factor: float, initial_loss: float
) -> float | None:
    """The loss at an LR that is off by a factor, on the line between the known LRs beside it, in log LR.

    Args:
        lrs: Those that are known, ascending.
        losses: Theirs; NaN or infinite where a run diverged.
        lr: The LR that another one is compared with.
        factor: What it is multiplied by.
        initial_loss: What a run that diverged counts as.

    Returns:
        The loss; None: no known LR lies so far out.
    """
    wanted = math.log(lr * factor)
    known = np.log(np.asarray(lrs, dtype=np.float64))
    if not (len(known) and known[0] - _ROUNDING <= wanted <= known[-1] + _ROUNDING):
        return None
    return float(np.interp(wanted, known, [capped(loss, initial_loss) for loss in losses]))
