"""All contestants by name, in the order in which the grid runs them."""

from benchmarks.quality import users_lr
from benchmarks.quality.baselines import CONTESTANTS as BASELINES
from benchmarks.quality.lr_free import CONTESTANTS as LR_FREE
from benchmarks.quality.schedule_free import CONTESTANTS as SCHEDULE_FREE
from benchmarks.quality.second_jobs import CONTESTANTS as SECOND_JOBS
from benchmarks.quality.tuners import TUNERS

CONTESTANTS = BASELINES | LR_FREE | SCHEDULE_FREE | TUNERS | SECOND_JOBS | {users_lr.USERS_LR: users_lr.CONTESTANT}
