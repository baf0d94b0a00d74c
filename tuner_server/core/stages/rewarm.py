"""How the LR goes on where the plan of a run has changed: from where it is up to a peak again, and down."""

from __future__ import annotations

import dataclasses

from lrpilot.wire.profile import Profile
from lrpilot.wire.rewarming import steps_of_rise


def risen(profile: Profile, present_lr: float | None) -> Profile:
    """The LRs of as many steps as a profile has, whose rise begins at the present LR and not at zero.

    The rise takes fewer steps then, and the way down takes so many more.

    Args:
        profile: from its first step on.
        present_lr: where the run is; None: it has not begun, and rises from zero.
    """
    behind = 0 if present_lr is None else steps_of_rise(present_lr, profile.first_lr, profile.warmup)
    return dataclasses.replace(profile, length=profile.length + behind, offset=behind)
