"""Between the wire's changes of a plan and the core's."""

from __future__ import annotations

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.messages.plan_changes import KINDS, ORIGINS, SCALINGS

from tuner_server.core.errors import InvalidInputError
from tuner_server.core.messages import MAX_CHANGE_REASON, MAX_REQUEST_ID, PlanChange
from tuner_server.rpc.untrusted import known, optional, read_as, sentence, text


def change_from_pb(message: pb.PlanChange, field: str = "report.change", *, told: bool = False) -> PlanChange:
    """A change that is asked for.

    Args:
        message: the change.
        field: what it is called in errors.
        told: whether a server tells of it: it may be its policy's own, then.

    Raises:
        InvalidInputError: a value is unknown, or impossible.
    """
    origin = message.origin or pb.PLAN_CHANGE_ORIGIN_CLIENT
    scaling = message.batch_scaling or pb.BATCH_SCALING_SQRT
    if origin == pb.PLAN_CHANGE_ORIGIN_POLICY and not told:
        raise InvalidInputError.of(f"{field}.origin", "only the server's own policy has that one")
    with read_as(field):
        return PlanChange(
            kind=known(f"{field}.kind", KINDS, message.kind),
            total_steps=message.total_steps if message.HasField("total_steps") else None,
            later_steps=message.later_steps if message.HasField("later_steps") else None,
            anneal_steps=message.anneal_steps if message.HasField("anneal_steps") else None,
            batch_factor=optional(message, "batch_factor"),
            batch_scaling=known(f"{field}.batch_scaling", SCALINGS, scaling),
            reason=sentence(f"{field}.reason", message.reason, MAX_CHANGE_REASON),
            origin=known(f"{field}.origin", ORIGINS, origin),
            request_id=text(f"{field}.request_id", message.request_id, MAX_REQUEST_ID),
        )


def change_to_pb(change: PlanChange) -> pb.PlanChange:
    """A change, as it took effect."""
    return pb.PlanChange(
        kind=KINDS[change.kind],
        total_steps=change.total_steps,
        later_steps=change.later_steps,
        anneal_steps=change.anneal_steps,
        batch_factor=change.batch_factor,
        batch_scaling=SCALINGS[change.batch_scaling],
        reason=change.reason,
        origin=ORIGINS[change.origin],
        request_id=change.request_id,
    )
