"""Changes of a plan on the wire, read alike on both sides."""

from __future__ import annotations

from collections.abc import Mapping

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.plan_change import BatchScaling, ChangeKind, ChangeOrigin

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
_KINDS = {number: kind for kind, number in KINDS.items()}
_ORIGINS = {number: origin for origin, number in ORIGINS.items()}


def kind_from_proto(number: pb.PlanChangeKind.ValueType) -> ChangeKind:
    """What changes. Raises: ValueError: this version does not know it."""
    kind = _KINDS.get(number)
    if kind is None:
        raise ValueError(f"a change of kind {number} is not known to this client")
    return kind


def origin_from_proto(number: pb.PlanChangeOrigin.ValueType) -> ChangeOrigin:
    """Who asked for a change; the training program if nothing is said. Raises: ValueError: it is not known."""
    origin = _ORIGINS.get(number or pb.PLAN_CHANGE_ORIGIN_CLIENT)
    if origin is None:
        raise ValueError(f"the origin {number} of a change is not known to this client")
    return origin
