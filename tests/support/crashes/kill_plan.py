"""When which server is killed: a plan that comes from a seed."""

from __future__ import annotations

import dataclasses
import random
import time

from tests.support.crashes.checking_clients import CheckingClients
from tests.support.crashes.server_fleet import ServerFleet

MOST_REPORTS = 60
"""Between two kills: about what a server on a slow machine takes in while another starts."""
LONGEST_DELAY_S = 0.05
"""More than a report takes from end to end, so that a kill may fall anywhere in it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL."""

    server: int
    after_reports: int
    """Acknowledged since the kill before."""
    delay_s: float
    """After that."""


def plan(seed: int, n_kills: int, n_servers: int) -> list[Kill]:
    """So many kills, the same for the same seed."""
    chance = random.Random(seed)
    return [
        Kill(chance.randrange(n_servers), chance.randint(1, MOST_REPORTS), chance.uniform(0.0, LONGEST_DELAY_S))
        for _ in range(n_kills)
    ]


def carry_out(kills: list[Kill], fleet: ServerFleet, clients: CheckingClients) -> None:
    """Kills servers under the clients' load."""
    for kill in kills:
        clients.wait_for(kill.after_reports)
        time.sleep(kill.delay_s)
        fleet.kill(kill.server)
