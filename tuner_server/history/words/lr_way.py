"""How the LR moves within a profile, in words that follow the profile: an LR may rise as well as fall."""

from __future__ import annotations

import dataclasses

from lrpilot.wire.profile import Profile

from tuner_server.history.words.numbers import number


@dataclasses.dataclass(frozen=True, slots=True)
class Verb:
    """A verb for what an LR does, in the forms that sentences need."""

    past: str
    present: str
    participle: str


RISE = Verb("rose from", "rises from", "rising")
FALL = Verb("fell from", "falls from", "falling")
DECAY = Verb("decayed from", "decays from", "decaying")
STAY = Verb("stayed at", "stays at", "staying")


def falls(profile: Profile) -> bool:
    """Whether the LR is lower at the end of the profile than after its warm-up."""
    return profile.last_lr < profile.start_lr


def hardly_falls(profile: Profile) -> bool:
    """Whether the LR falls over the profile, and yet is far from its end there: more than half is left."""
    return falls(profile) and profile.last_lr > profile.start_lr / 2


def rises(profile: Profile) -> bool:
    """Whether the LR is higher at the end of the profile than after its warm-up."""
    return profile.last_lr > profile.start_lr


def verb(profile: Profile, fall: Verb = FALL) -> Verb:
    """What the LR does after the warm-up; `fall` is the verb for one that falls."""
    return RISE if rises(profile) else fall if falls(profile) else STAY


def onward(profile: Profile) -> str:
    """What comes of an LR that moves, such as `, rising to 0.1, then falling to 0 along a line`; empty: it stands."""
    climbs = profile.offset < _top(profile)
    start, end = number(profile.start_lr), f"to {number(profile.last_lr)} {profile.shape.way.words}"
    if not (falls(profile) or rises(profile)):
        return f", rising to {start}" if climbs else ""
    if not climbs:
        return f", {verb(profile).participle} from {start} {end}"
    return f", rising to {start}, then {end}" if rises(profile) else f", rising to {start}, then falling {end}"


def so_far(profile: Profile, n_steps: int, end_lr: float) -> str:
    """What the LR did in the first `n_steps` steps, which led to `end_lr`, as a sentence."""
    climbs, end = profile.offset < _top(profile), number(end_lr)
    if profile.offset + n_steps <= _top(profile):
        return f"The LR rose to {end}."
    top = number(profile.start_lr if climbs else profile.lr(0))
    way = f"{end} {profile.shape.way.words}"
    if rises(profile):
        return f"The LR rose to {top}, then to {way}." if climbs else f"The LR rose from {top} to {way}."
    if falls(profile) and end != top:
        return f"The LR rose to {top}, then fell to {way}." if climbs else f"The LR fell from {top} to {way}."
    return f"The LR rose to {top}, and stayed there." if climbs else f"The LR stayed at {top}."


def _top(profile: Profile) -> int:
    """The position up to which the LR rises before it does what the profile is for."""
    return profile.top if falls(profile) else profile.warmup
