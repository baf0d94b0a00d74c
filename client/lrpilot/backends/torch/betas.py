"""Adam's betas and eps for another batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from lrpilot.errors import ConfigError
from lrpilot.schedules.batch_size import AdamConstants, scaled_adam


def scale_betas(optimizers: Sequence[Optimizer], batch_factor: float, *, only_check: bool) -> None:
    """Scales the betas and eps of all groups that have them; `only_check`: tells whether they can be scaled.

    Raises:
        ConfigError: no group has betas, some are not those of Adam, or one of them would remember nothing. Nothing is
            scaled then.
    """
    # A wrapper and what it wraps share their groups.
    groups = {id(group): group for each in optimizers for group in each.param_groups if "betas" in group}
    if not groups:
        raise ConfigError("scale_betas: no optimizer has betas; leave it out")
    scaled = [(group, _scaled(group, batch_factor)) for group in groups.values()]
    if only_check:
        return
    for group, (beta1, beta2, eps) in scaled:
        group["betas"] = tuple(map(_assigned, group["betas"], (beta1, beta2)))
        group["eps"] = _assigned(group["eps"], eps)


def _scaled(group: dict[str, Any], batch_factor: float) -> AdamConstants:
    try:
        beta1, beta2 = map(float, group["betas"])
        eps = float(group["eps"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"scale_betas: betas {group['betas']!r} and eps {group.get('eps')!r} are not those of Adam; leave it out"
        ) from error
    try:
        return scaled_adam(batch_factor, beta1, beta2, eps)
    except ValueError as error:
        raise ConfigError(f"scale_betas: {error}") from error


def _assigned(present: Any, value: float) -> Any:
    """The value; in the tensor's place where there is one, as compiled steps read it there."""
    return present.fill_(value) if isinstance(present, torch.Tensor) else value
