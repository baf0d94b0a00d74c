"""Profiles as messages, both ways."""

from __future__ import annotations

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.profile import Profile, Shape


def profile_from_proto(message: pb.Profile) -> Profile:
    """A profile off the wire.

    Raises:
        ValueError: its shape is not known here, or its numbers make no profile.
    """
    try:
        shape = Shape(message.shape, tuple(message.parameters))
    except ValueError as error:
        raise ValueError(f"profile: {error}") from error
    return Profile(shape, message.start_lr, message.end_lr, message.length, message.offset, message.warmup)


def profile_to_proto(profile: Profile) -> pb.Profile:
    """A profile for the wire."""
    return pb.Profile(
        shape=profile.shape.name,
        parameters=profile.shape.parameters,
        start_lr=profile.start_lr,
        end_lr=profile.end_lr,
        length=profile.length,
        offset=profile.offset,
        warmup=profile.warmup,
    )
