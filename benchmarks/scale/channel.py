"""The tuner's own channel between ranks (`lrpilot.distributed.ranks`), message by message.

The channel is gloo's. Its all-reduce is a ring: a value goes round once to be added up and once more to be told, which
are 2 (P - 1) messages one after another, however short it is. Its broadcast is a binomial tree, of at most log2 P
messages one after another, as a sender does not wait for the receiver. A message takes a log-normal time. Ranks have
the order of their hosts, so that of the ring's messages one in h goes to another host.

A rank that comes late holds up the others, as in any collective. All functions take the time at which each rank comes,
and give the time at which each one goes on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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

    def all_reduce(self, ready: Times) -> Times:
        """A sum or a maximum of few values, over all."""
        n = len(ready)
        if n == 1:
            return ready.copy()
        ring = np.arange(1, 2 * n - 1) % n
        hops = self._messages((ring - 1) % n, ring)
        done = ready.copy()
        now = float(ready[0])
        for rank, hop in zip(ring[: n - 1].tolist(), hops[: n - 1].tolist(), strict=True):
            now = max(now + hop, float(ready[rank]))
        done[n - 1] = now
        for rank, hop in zip(ring[n - 1 :].tolist(), hops[n - 1 :].tolist(), strict=True):
            now += hop
            done[rank] = now
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
        """`Ranks.mean`, of losses: all agree on what they come for, then add up."""
        return self.all_reduce(self.all_reduce(ready))

    def hear(self, ready: Times) -> Times:
        """`Ranks.broadcast`, of a directive: all agree, then hear how long it is, and what it is."""
        return self.broadcast(self.broadcast(self.all_reduce(ready)))

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
