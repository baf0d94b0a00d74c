"""Early warnings as messages, both ways."""

from __future__ import annotations

from lrpilot.v1 import tuner_pb2 as pb
from lrpilot.wire.early_warning import EarlyWarning, WarningRule

_RULES = {pb.WarningRule.Value(f"WARNING_RULE_{rule.name}"): rule for rule in WarningRule}
_PROTO_RULES = {rule: number for number, rule in _RULES.items()}


def warning_from_proto(message: pb.EarlyWarning) -> EarlyWarning:
    """A warning off the wire. Raises: ValueError: its rule is not known here, or its numbers make no sense."""
    rule = _RULES.get(message.rule)
    if rule is None:
        raise ValueError(f"warning: rule {message.rule} is not known to this client")
    return EarlyWarning(message.measure, rule, message.level, message.row, message.ends)


def warning_to_proto(warning: EarlyWarning) -> pb.EarlyWarning:
    """A warning for the wire."""
    return pb.EarlyWarning(
        measure=warning.measure,
        rule=_PROTO_RULES[warning.rule],
        level=warning.level,
        row=warning.row,
        ends=warning.ends,
    )
