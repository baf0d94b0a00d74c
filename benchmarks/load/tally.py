"""What a client process saw in one window of time; it travels between processes, and adds up."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from hdrh.histogram import HdrHistogram

from benchmarks.load.latencies import histogram, merged, record
from benchmarks.load.workload import Kind

ATTEMPT_S = 5.0
"""After so long a client takes the connection for dead (`lrpilot.transport`)."""


class Recorder:
    """Takes the calls of one window."""

    def __init__(self) -> None:
        self._latencies: dict[Kind, HdrHistogram] = {kind: histogram() for kind in Kind}
        self._round_trips: dict[Kind, HdrHistogram] = {kind: histogram() for kind in Kind}
        self._errors: Counter[str] = Counter()
        self._too_slow = 0
        self.unsent = 0.0
        """Reports that were due in the window, and had to wait for an earlier one's answer until it was over."""

    def answered(self, kind: Kind, latency_s: float, round_trip_s: float) -> None:
        """A call that was due `latency_s` and sent `round_trip_s` ago."""
        record(self._latencies[kind], latency_s)
        record(self._round_trips[kind], round_trip_s)
        self._too_slow += round_trip_s > ATTEMPT_S

    def failed(self, code: str) -> None:
        """A call that ended in an error."""
        self._errors[code] += 1

    def tally(self, elapsed_s: float, cpu_s: float) -> Tally:
        """All of it."""
        return Tally(
            latencies={kind: of_kind.encode() for kind, of_kind in self._latencies.items()},
            round_trips={kind: of_kind.encode() for kind, of_kind in self._round_trips.items()},
            errors=dict(self._errors),
            too_slow=self._too_slow,
            unsent=self.unsent,
            elapsed_s=elapsed_s,
            cpu_s=cpu_s,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """One window. Histograms are encoded, in microseconds."""

    latencies: dict[Kind, bytes]
    """From the moment at which a call was due."""
    round_trips: dict[Kind, bytes]
    """From the moment at which it was sent."""
    errors: dict[str, int]
    """The number of errors by status code."""
    too_slow: int
    """Calls that a client would have given up, and repeated."""
    unsent: float
    elapsed_s: float
    """Until the last answer."""
    cpu_s: float
    """Processor time of the clients."""

    def count(self, kind: Kind) -> int:
        """Answered calls."""
        return int(merged([self.latencies[kind]]).get_total_count())

    @property
    def n_reports(self) -> int:
        """Answered reports."""
        return self.count(Kind.SEARCH) + self.count(Kind.PLAIN)


def together(tallies: Sequence[Tally]) -> Tally:
    """The tally of several client processes in the same window, or of several runs one after the other."""
    return Tally(
        latencies={kind: merged(tally.latencies[kind] for tally in tallies).encode() for kind in Kind},
        round_trips={kind: merged(tally.round_trips[kind] for tally in tallies).encode() for kind in Kind},
        errors=dict(sum((Counter(tally.errors) for tally in tallies), Counter())),
        too_slow=sum(tally.too_slow for tally in tallies),
        unsent=sum(tally.unsent for tally in tallies),
        elapsed_s=max(tally.elapsed_s for tally in tallies),
        cpu_s=sum(tally.cpu_s for tally in tallies),
    )
