"""Directives for scripts: probes and committed steps at a constant LR, on replayed batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrpilot.transport.scripted import ScriptedTransport
from lrpilot.v1 import tuner_pb2 as pb


def constant(lr: float, n_steps: int) -> pb.Profile:
    """A profile."""
    return pb.Profile(shape="constant", start_lr=lr, end_lr=lr, length=n_steps)


def directive(phase: pb.Phase.ValueType, lr: float, n_steps: int, restore: bool = False, **fields: Any) -> pb.Directive:
    """From the snapshot, or from one that is taken here."""
    return pb.Directive(
        phase=phase,
        n_steps=n_steps,
        profile=constant(lr, n_steps),
        restore=restore,
        snapshot=not restore,
        batches=pb.BATCH_SOURCE_REPLAYED,
        **{"stage": 1, **fields},
    )


def probe(lr: float, n_steps: int, first: bool = False, **fields: Any) -> pb.Directive:
    """Search steps; the first of a search takes the snapshot."""
    return directive(pb.PHASE_PROBE, lr, n_steps, not first, **fields)


def training(lr: float, n_steps: int, restore: bool = False, **fields: Any) -> pb.Directive:
    """Committed steps."""
    return directive(pb.PHASE_TRAIN, lr, n_steps, restore, **fields)


class ResumableScript(ScriptedTransport):
    """Gives out the same directives again to a run that goes back."""

    def __init__(self, directives: Sequence[pb.Directive]) -> None:
        """Takes the directives, which it numbers."""
        super().__init__(directives)
        self._all = directives

    def resume_job(self, request: pb.ResumeJobRequest, timeout_s: float) -> pb.ResumeJobResponse:
        """Goes back to the directive that the run names."""
        self._directives = iter(self._all[request.directive_number :])
        self._n_sent = request.directive_number
        return pb.ResumeJobResponse()
