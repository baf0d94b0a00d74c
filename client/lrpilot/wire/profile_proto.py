"""Profiles as messages, both ways."""

from __future__ import annotations

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.profile import Profile, Shape

_SHAPES = {pb.ProfileShape.Value(f"PROFILE_SHAPE_{shape.name}"): shape for shape in Shape}
_PROTO_SHAPES = {shape: number for number, shape in _SHAPES.items()}


def profile_from_proto(message: pb.Profile) -> Profile:
    """A profile off the wire.

    Raises:
        ValueError: its shape is one that this client doesn't know, or its numbers make no profile.
    """
    shape = _SHAPES.get(message.shape)
    if shape is None:
        raise ValueError(f"profile: shape {message.shape} is not known to this client")
    return Profile(shape, message.start_lr, message.end_lr, message.length, message.offset, message.warmup)


def profile_to_proto(profile: Profile) -> pb.Profile:
    """A profile for the wire."""
    return pb.Profile(
        shape=_PROTO_SHAPES[profile.shape],
        start_lr=profile.start_lr,
        end_lr=profile.end_lr,
        length=profile.length,
        offset=profile.offset,
        warmup=profile.warmup,
    )
