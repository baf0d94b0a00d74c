"""Processes of tests that train: they have imported PyTorch already."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = [
    "lrpilot.tuner",
    "tests.support.training.distributed_training",
    "tests.support.training.disturbed_training",
    "torch._dynamo",
    "tests.support.frozen_imports",
]
"""What they would import, also by the first step of an optimizer, which is when PyTorch imports `torch._dynamo`."""


def context() -> ForkServerContext:
    """Makes processes; a start takes a fraction of a second instead of some three.

    All come from one process, which ends with this one.
    """
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(PRELOADED)
    return made
