"""All contestants by name, in the order in which the grid runs them."""

from benchmarks.quality import users_lr
from benchmarks.quality.baselines import CONTESTANTS as BASELINES
from benchmarks.quality.tuners import TUNERS

CONTESTANTS = BASELINES | TUNERS | {users_lr.USERS_LR: users_lr.CONTESTANT}
