"""Made-up servers, failures and bugs against the client: whatever they do, the training runs to its end.

    python -m tests.fuzz.fuzz_client [--seconds N] [--seed N]

It prints how many runs it made, and ends at the first one that did not come out right.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings

import hypothesis
import torch

from tests.support.hostile import hostile_run

EXAMPLES = 500
"""Between two looks at the clock."""


def main() -> None:
    """Fuzzes for so long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    deadline = time.monotonic() + arguments.seconds
    n_runs = 0
    for seed in itertools.count(arguments.seed):
        if time.monotonic() >= deadline:
            break

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],  # a smaller run would take minutes to find
            suppress_health_check=list(hypothesis.HealthCheck),
            print_blob=False,
        )
        @hypothesis.given(hostile_run.cases)
        def run(case: hostile_run.Case) -> None:
            nonlocal n_runs
            n_runs += 1
            hostile_run.check(case)

        run()
        print(f"seed {seed}: {n_runs} runs, and every one came to its end", flush=True)


if __name__ == "__main__":
    main()
