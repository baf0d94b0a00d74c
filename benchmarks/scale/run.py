"""A huge run and the machines that it is on: every number that the other modules compute with.

Notation, in these modules: ``W`` weights; ``P`` ranks; ``S`` ranks that share one copy of the model, so that each
holds a part of ``1 / S``; ``h`` ranks a host; ``T`` optimizer steps.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

FORWARD_SHARE = 1 / 3
"""The forward pass is this part of a step: the backward pass takes twice as long."""
_NONE_IS_FINE = {"host_reserved_gb", "device_reserved_gb", "validation_batches", "skew_ms", "server_ms"}
"""Fields that may be 0."""


@dataclass(frozen=True)
class HugeRun:
    """A run, as whoever plans it knows it. Each field is an option of the command line.

    Attributes:
        weights: Parameters of the model (W).
        ranks: Processes, one a GPU (P).
        shards: Ranks that share one copy of the model (S): all of them with FSDP2 over the world, fewer with its hybrid
            form, 1 with DDP.
        ranks_per_host: GPUs of a host (h).
        steps: Optimizer steps of the run (T).
        batch_tokens: Tokens of a step, over all ranks.
        weight_bytes: Bytes of a weight as the optimizer has it.
        gradient_bytes: Bytes of its gradient.
        optimizer_bytes: Bytes of optimizer state for each weight.
        device_gb: Memory of a GPU, in 10^9 bytes.
        device_reserved_gb: What of it is taken before the first step by all but weights: contexts and libraries.
        host_gb: Memory of a host.
        host_reserved_gb: What of it is taken by all but snapshots.
        disk_gb: Room on a host's disk.
        device_gb_s: Copy within the device: each byte is read and written.
        host_gb_s: Copy between device and pinned host memory, each way, of one rank while all copy.
        disk_gb_s: Write to a host's disk, or read from it, all its ranks together.
        peak_tflops: Of a GPU, in the precision of the run.
        utilisation: Part of the peak that training reaches.
        batch_bytes: Bytes of a token in a batch: its number, and that of the one to foretell.
        validation_batches: Batches of one validation, each as large as a step's.
        hop_us: Time of a small message between two hosts, median.
        local_hop_us: The same between two processes of a host.
        hop_spread: Standard deviation of the logarithm of both.
        skew_ms: Mean time by which a rank comes later than the first one (exponential).
        server_ms: Time of a report and its answer, as rank 0 waits for it.
    """

    weights: float = 10e9
    ranks: int = 512
    shards: int = 512
    ranks_per_host: int = 8
    steps: int = 50_000
    batch_tokens: float = 4_194_304
    weight_bytes: float = 4
    gradient_bytes: float = 4
    optimizer_bytes: float = 8
    device_gb: float = 80
    device_reserved_gb: float = 3
    host_gb: float = 2000
    host_reserved_gb: float = 200
    disk_gb: float = 30_000
    device_gb_s: float = 1340
    host_gb_s: float = 25
    disk_gb_s: float = 8
    peak_tflops: float = 989
    utilisation: float = 0.4
    batch_bytes: float = 16
    validation_batches: int = 10
    hop_us: float = 50
    local_hop_us: float = 25
    hop_spread: float = 0.5
    skew_ms: float = 1
    server_ms: float = 15

    def __post_init__(self) -> None:
        """Raises: ValueError: a number is out of range; the message names it and says what would be right."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in _NONE_IS_FINE else math.ulp(0.0)
            if not least <= value < math.inf:
                raise ValueError(f"{field.name}: {value} is not {'at least' if least == 0 else 'above'} 0 and finite")
        if self.ranks % self.shards:
            raise ValueError(f"shards: {self.shards} is no divisor of ranks, {self.ranks}; give one that is")
        if self.utilisation > 1:
            raise ValueError(
                f"utilisation: {self.utilisation} is above 1; give the part of peak_tflops that is reached"
            )

    @property
    def local_weights(self) -> float:
        """Weights of a rank: W / S."""
        return self.weights / self.shards

    @property
    def local_ranks(self) -> int:
        """Ranks of a host that is full."""
        return min(self.ranks_per_host, self.ranks)

    @property
    def connections(self) -> int:
        """Connections of the tuner's channel, in which gloo connects every rank to every other one."""
        return self.ranks * (self.ranks - 1) // 2

    @property
    def step_s(self) -> float:
        """Seconds of an optimizer step: six operations for each weight and token, over what all GPUs reach."""
        reached = self.peak_tflops * 1e12 * self.utilisation * self.ranks
        return 6 * self.weights * self.batch_tokens / reached

    @property
    def validation_s(self) -> float:
        """Seconds of a validation, which goes forward only."""
        return self.validation_batches * self.step_s * FORWARD_SHARE

    @property
    def snapshot_bytes(self) -> float:
        """Bytes of a rank's snapshot: its weights and its optimizer state."""
        return self.local_weights * (self.weight_bytes + self.optimizer_bytes)

    @property
    def average_bytes(self) -> float:
        """Bytes of a rank's part in the average of the weights, which runs that validate end with."""
        return self.local_weights * self.weight_bytes

    @property
    def replayed_bytes(self) -> float:
        """Bytes of a rank's batch, of which one probe's are kept to be drawn again."""
        return self.batch_tokens / self.ranks * self.batch_bytes
