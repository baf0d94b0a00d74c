"""All contestants by name, in the order in which the grid runs them."""

from benchmarks.quality.baselines import CONTESTANTS as BASELINES
from benchmarks.quality.tuners import TUNERS

CONTESTANTS = BASELINES | TUNERS
