"""The LRs of a run as the laws read them: in order, at every step or at every k-th one."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class LrPath:
    """The LR at steps 0, stride, 2 * stride, and so on; between them it moves along lines.

    A run of a million steps needs no million numbers: with a stride, all areas are those of the broken line through the
    samples, exactly.
    """

    lrs: FloatArray
    """(n,), finite and not negative."""
    stride: int = 1
    warmup: int = 0
    """Leading steps of a warm-up. They count as if the LR were at its peak already, the LR of the step after them."""
    warmup_walks: bool = False
    """Whether S1 takes a warm-up's LRs as they were; as published (Tissue et al. 2024) they count as the peak there,
    too. On public curves with long warm-ups the law errs half as much with what was really walked (docs/methods)."""

    def __post_init__(self) -> None:
        """Refuses a path without LRs.

        Raises:
            ValueError: there is no LR, one is negative or not finite, or the stride or the warm-up is too small.
        """
        if self.lrs.ndim != 1 or not self.lrs.size:
            raise ValueError(f"lrs: a path needs one LR or more in a row, not the shape {self.lrs.shape}")
        if not (np.isfinite(self.lrs).all() and (self.lrs >= 0).all()):
            raise ValueError("lrs: LRs must be finite and not negative")
        if self.stride < 1 or self.warmup < 0:
            raise ValueError(f"stride {self.stride} must be at least 1, and warmup {self.warmup} at least 0")

    @property
    def steps(self) -> FloatArray:
        """(n,) the steps of its samples."""
        return np.arange(self.lrs.size, dtype=np.float64) * self.stride

    @property
    def end(self) -> int:
        """The last step."""
        return (self.lrs.size - 1) * self.stride

    def counted(self) -> FloatArray:
        """(n,) the LRs with the warm-up at its peak, so that it anneals nothing."""
        first = min(-(-self.warmup // self.stride), self.lrs.size - 1)
        return np.concatenate([np.full(first, self.lrs[first]), self.lrs[first:]])

    def area(self) -> FloatArray:
        """(n,) S1: the sum of the LRs of all steps up to each sample, that of the sample included."""
        lrs = self.lrs if self.warmup_walks else self.counted()
        between = self.stride * lrs[:-1] + np.diff(lrs) * (self.stride + 1) / 2
        return np.cumsum(np.concatenate([lrs[:1], between]))

    def annealing_area(self, momentum: float, *, falls_only: bool = False) -> FloatArray:
        """(n,) S2 at each sample: the sum of m_i = momentum * m_(i-1) + (lr_(i-1) - lr_i), with m_0 = 0.

        A fall by d that is k steps old has added d * (1 - momentum^(k+1)) / (1 - momentum).

        Args:
            momentum: lambda, at least 0 and below 1.
            falls_only: whether rises of the LR add nothing; as published, they subtract.
        """
        from scipy.signal import lfilter  # Half a second to import, which a server that fits nothing need not wait for.

        falls = -np.diff(self.counted(), prepend=self.counted()[:1]) / self.stride
        if falls_only:
            falls = np.maximum(falls, 0.0)
        # Over a stretch of `stride` steps with the same fall each, m and its sum have closed forms.
        kept = momentum**self.stride
        built = (1.0 - kept) / (1.0 - momentum)
        momenta = lfilter([built], [1.0, -kept], falls)
        added = momentum * built * np.concatenate([[0.0], momenta[:-1]])
        added += falls * (self.stride - momentum * built) / (1.0 - momentum)
        return np.cumsum(added)
