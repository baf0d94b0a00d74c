"""Between the wire's changes of a plan and the core's."""

from __future__ import annotations

from collections.abc import Mapping

from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import MAX_CHANGE_REASON, BatchScaling, ChangeKind, ChangeOrigin, PlanChange
from tuner_server.rpc.untrusted import known, optional, read_as, text

KINDS: Mapping[ChangeKind, pb.PlanChangeKind.ValueType] = {
    ChangeKind.EXTEND: pb.PLAN_CHANGE_KIND_EXTEND,
    ChangeKind.REPLAN: pb.PLAN_CHANGE_KIND_REPLAN,
    ChangeKind.ANNEAL: pb.PLAN_CHANGE_KIND_ANNEAL,
    ChangeKind.UNDO_ANNEALING: pb.PLAN_CHANGE_KIND_UNDO_ANNEALING,
}
SCALINGS: Mapping[BatchScaling, pb.BatchScaling.ValueType] = {
    BatchScaling.SQRT: pb.BATCH_SCALING_SQRT,
    BatchScaling.LINEAR: pb.BATCH_SCALING_LINEAR,
    BatchScaling.NONE: pb.BATCH_SCALING_NONE,
}
ORIGINS: Mapping[ChangeOrigin, pb.PlanChangeOrigin.ValueType] = {
    ChangeOrigin.CLIENT: pb.PLAN_CHANGE_ORIGIN_CLIENT,
    ChangeOrigin.OPERATOR: pb.PLAN_CHANGE_ORIGIN_OPERATOR,
    ChangeOrigin.POLICY: pb.PLAN_CHANGE_ORIGIN_POLICY,
}


def change_from_pb(message: pb.PlanChange, field: str = "report.change") -> PlanChange:
    """A change that is asked for.

    Args:
        message: the change.
        field: what it is called in errors.

    Raises:
        InvalidInputError: a value is unknown, or impossible.
    """
    origin = message.origin or pb.PLAN_CHANGE_ORIGIN_CLIENT
    scaling = message.batch_scaling or pb.BATCH_SCALING_SQRT
    if origin == pb.PLAN_CHANGE_ORIGIN_POLICY:
        raise InvalidInputError.of(f"{field}.origin", "only the server's own policy has that one")
    with read_as(field):
        return PlanChange(
            kind=known(f"{field}.kind", KINDS, message.kind),
            total_steps=message.total_steps if message.HasField("total_steps") else None,
            anneal_steps=message.anneal_steps if message.HasField("anneal_steps") else None,
            batch_factor=optional(message, "batch_factor"),
            batch_scaling=known(f"{field}.batch_scaling", SCALINGS, scaling),
            reason=text(f"{field}.reason", message.reason, MAX_CHANGE_REASON),
            origin=known(f"{field}.origin", ORIGINS, origin),
        )


def change_to_pb(change: PlanChange) -> pb.PlanChange:
    """A change, as it took effect."""
    return pb.PlanChange(
        kind=KINDS[change.kind],
        total_steps=change.total_steps,
        anneal_steps=change.anneal_steps,
        batch_factor=change.batch_factor,
        batch_scaling=SCALINGS[change.batch_scaling],
        reason=change.reason,
        origin=ORIGINS[change.origin],
    )
