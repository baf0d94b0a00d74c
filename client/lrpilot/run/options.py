"""What every framework's tuner takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from lrpilot.credentials import Credentials
from lrpilot.run.observer import Observer
from lrpilot.transport.base import Transport

TIMEOUT_S = 30.0
"""The longest wait for one decision, retries included."""


class JobOptions(TypedDict, total=False):
    """What every framework's tuner takes, as keyword arguments. All may be left out."""

    server: str | None
    """HOST:PORT of the server. Default: `$LRPILOT_SERVER`; without that an embedded one, which ends with this run."""
    credentials: Credentials | None
    """What is shown to that server. Default: `$LRPILOT_TOKEN`, `$LRPILOT_TLS_CA` and the like (docs/security.md)."""
    total_steps: int | None
    """Optimizer steps of the run, search included. Default: None, until you stop, or `total_time_s` is over."""
    epochs: int | None
    """The same in epochs, of `steps_per_epoch` optimizer steps each, in place of `total_steps`. Default: None."""
    steps_per_epoch: int | None
    """Optimizer steps of an epoch: `len(loader)`, over the micro-batches of a step. Default: None."""
    total_time_s: float | None
    """Seconds that the run may take, search included, in place of `total_steps`. Default: None, as long as it takes."""
    stop_when: float | str | None
    """What is still worth going on for: 0.01 is so much of the validation loss, "1%" that part of what the run has
    gained. Once going on to the end would gain no more, the LR anneals at once, and the run is over. Needs `validate`.
    Default: None, on to the end (docs/methods/stopping.md)."""
    mode: Literal["min", "max"]
    """Whether what `validate` gives is the better the lower it is ("min", a loss) or the higher ("max", an accuracy).
    Losses of steps are minimised in either. Default: "min"."""
    lr_bounds: tuple[float, float] | None
    """Where a search begins: between these two LRs of the first parameter group, both above 0. They are no limit: where
    the best LR seems to lie outside, the search goes up to ten times beyond, unless `policy_options` has a `widening`
    of 1, and the run takes a lower LR than its best probe. Default: None, found by a range test."""
    policy: str | None
    """The algorithm: "budget", "open_ended", "autolrs", or one that the server has installed (docs/policies.md).

    Default: "budget" with `total_steps`, else "open_ended".
    """
    policy_options: Mapping[str, Any] | None
    """The algorithm's options, by name (docs/policies.md). Default: none, its own defaults."""
    name: str
    """The job's name, for people. Default: empty."""
    family: str
    """Jobs of one family resemble one another, and learn from one another (docs/families.md). Default: empty, none."""
    seed: int
    """The search's seed; the same seed, options and losses give the same schedule. Default: 0."""
    record: Sequence[str]
    """What is measured at every committed step and kept with the job, as ("gradient_norm",), for `lrpilot refine`,
    `lrpilot export` and the exported steps; see `lrpilot.backends.base.Backend.measures`. Default: nothing."""
    timeout_s: float
    """Seconds: the longest wait for one decision; all waits together take at most ten times as long. Default: 30."""
    strict: bool
    """Whether to raise where a decision can't be had, instead of training on without. Default: False."""
    adopt: bool
    """Whether the model may be left with an average of its weights where that is better than the last ones, by
    `validate` if it is given; see `averaged`. Only a policy that averages does so (docs/policies.md). Default: True."""
    observers: Sequence[Observer]
    """Are told what happens, on every rank: loggers. Default: none."""
    progress: bool | None
    """Whether standard error is told of the run: its beginning, its decisions and its end in a line each, and a bar
    where batches are drawn through the tuner. Default: None, where standard error is a terminal or a notebook's
    (`$LRPILOT_PROGRESS`, 0 or 1, decides otherwise)."""
    transport: Transport | None
    """What stands in place of a server, for tests. Default: None."""
