"""Small values of a directive, between the core and the wire."""

from __future__ import annotations

import math

from lrpilot.v1 import tuner_pb2 as pb

from tuner_server.core.messages import Average, Bar, RoundStep


def round_from_pb(message: pb.RoundStep) -> RoundStep:
    """How a federation's round is taken on."""
    return RoundStep(factor=message.factor, momentum=message.momentum)


def round_to_pb(step: RoundStep) -> pb.RoundStep:
    """How a federation's round is taken on, as a message."""
    return pb.RoundStep(factor=step.factor, momentum=step.momentum)


def average_from_pb(message: pb.Average) -> Average:
    """What average of the weights is kept."""
    return Average(memory_steps=message.memory_steps, every=message.every)


def average_to_pb(average: Average) -> pb.Average:
    """What average of the weights is kept, as a message."""
    return pb.Average(memory_steps=average.memory_steps, every=average.every)


def bar_from_pb(message: pb.Bar) -> Bar:
    """A bar that losses are held to."""
    validation = message.validation if message.HasField("validation") else math.inf
    reached = message.reached if message.HasField("reached") else None
    return Bar(from_step=message.from_step, loss=message.loss, validation=validation, reached=reached)


def bar_to_pb(bar: Bar) -> pb.Bar:
    """A bar that losses are held to, as a message."""
    validation = None if bar.validation == math.inf else bar.validation
    return pb.Bar(from_step=bar.from_step, loss=bar.loss, validation=validation, reached=bar.reached)
