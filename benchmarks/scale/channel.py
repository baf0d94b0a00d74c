"""The tuner's own channel between ranks (`lrpilot.distributed.ranks`), message by message.

Values come to rank 0 along the client's own tree, and go back by gloo's broadcast, which is a binomial tree too: either
way at most log2 P messages one after another, as a sender does not wait for the receiver. A message takes a log-normal
time. Ranks have the order of their hosts, so that the first levels of the way up stay within one.

A rank that comes late holds up the others, as in any collective. All functions take the time at which each rank comes,
and give the time at which each one goes on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from lrpilot.distributed.tree import children

from benchmarks.scale.run import HugeRun

Times = npt.NDArray[np.float64]


class Channel:
    """The messages between the ranks of a run."""

    def __init__(self, run: HugeRun, generator: np.random.Generator) -> None:
        """The channel of `run`; `generator` draws how long messages take."""
        self._run = run
        self._generator = generator

    def arrivals(self) -> Times:
        """When ranks come to a collective, in seconds after the first one."""
        late = self._generator.exponential(1.0, self._run.ranks) * self._run.skew_ms * 1e-3
        return np.asarray(late - late.min(), dtype=np.float64)

    def up(self, ready: Times) -> Times:
        """`Tree.bring_together`, as far as rank 0: each rank waits for those that tell it, and goes on when it is told.

        What ranks other than 0 have is the time at which they have sent theirs.
        """
        n, done = len(ready), ready.copy()
        ranks = np.arange(1, n)
        parents = ranks & (ranks - 1)
        hops = dict(zip(ranks.tolist(), self._messages(ranks, parents).tolist(), strict=True))
        for rank in reversed(range(n)):  # those who tell a rank have higher numbers
            for child in children(rank, n):
                done[rank] = max(done[rank], done[child] + hops[child])
        return done

    def broadcast(self, ready: Times) -> Times:
        """A few hundred bytes of rank 0 to all."""
        done = ready.copy()
        known = 1
        while known < len(ready):
            targets = np.arange(known, min(2 * known, len(ready)))
            sources = targets - known
            told = done[sources] + self._messages(sources, targets)
            done[targets] = np.maximum(done[targets], told)
            known *= 2
        return done

    def mean(self, ready: Times) -> Times:
        """`Ranks.mean`, of losses: what all come for and what they have come to rank 0, and back."""
        return self.broadcast(self.up(ready))

    def hear(self, ready: Times) -> Times:
        """`Ranks.broadcast`, of a directive: all agree, and hear how long it is, then what it is."""
        return self.broadcast(self.broadcast(self.up(ready)))

    def answer(self, ready: Times) -> Times:
        """What follows on a report: rank 0 waits for the server, and the others for rank 0."""
        waiting = ready.copy()
        waiting[0] += self._run.server_ms * 1e-3
        return self.hear(waiting)

    def _messages(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> Times:
        """Seconds of messages between ranks."""
        run = self._run
        local = sources // run.ranks_per_host == targets // run.ranks_per_host
        median = np.where(local, run.local_hop_us, run.hop_us) * 1e-6
        return np.asarray(median * np.exp(run.hop_spread * self._generator.standard_normal(len(targets))))
