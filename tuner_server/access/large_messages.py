"""What large messages may take of a process: who sends them, and room to be worked on, by turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

from cachetools import TTLCache

from tuner_server.core.errors import RateError

LARGE_BYTES = 64 * 2**10
"""The size from which on a message is large: a report of 16,000 steps."""
WORKED_ON_BYTES = 12 * 2**20
"""What is worked on at a time: one message of the largest size, or more that are smaller. In Python a report takes some
ten times its bytes."""
WAIT_S = 2.0
"""How long a message waits for room. Its client takes a call for lost after 5 s."""
RETRY_S = 0.5
"""How soon to come again after there was no room."""
LONGEST_PAUSE_S = 1.0
"""The longest time for which the room of a message is left to others after it."""
REMEMBERED_S = 60.0
"""How long it is known that a connection has sent a large message: longer than it needs for the next one."""
REMEMBERED = 8192
"""How many connections that is known of."""


class LargeMessages:
    """Who sends large messages, and which of them are worked on, over all projects. It belongs to one event loop."""

    def __init__(self, most_bytes: int = WORKED_ON_BYTES, wait_s: float = WAIT_S) -> None:
        """Lets messages of so many bytes be worked on at a time, for which they wait so long."""
        self._free, self._wait_s = most_bytes, wait_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        """The sizes of messages that wait for room, the first one first."""
        self._senders: TTLCache[Hashable, None] = TTLCache(REMEMBERED, REMEMBERED_S)

    def expected_of(self, connection: Hashable) -> bool:
        """Whether a connection has sent a large message a short time ago."""
        return connection in self._senders

    async def take_room(self, connection: Hashable, n_bytes: int) -> None:
        """Takes room for the work on a message of a connection, which is given back after it.

        Messages that are not large need none. A large one that nobody expected is not waited for, since it arrived at
        a place of the small ones.

        Raises: RateError: there is no room.
        """
        if n_bytes <= LARGE_BYTES:
            return
        expected = self.expected_of(connection)
        self._senders[connection] = None
        if not self._waiting and n_bytes <= self._free:
            self._free -= n_bytes
        elif expected:
            await self._turn(n_bytes)
        else:
            raise _no_room()

    def give_back_room(self, n_bytes: int, held_s: float) -> None:
        """Gives the room of a message to those whose turn it is, after as long a pause as the message held it.

        One that takes the event loop for long, such as a million empty parts, would else be followed by the next at
        once: half of the time is left to what is small.
        """
        if n_bytes > LARGE_BYTES:
            asyncio.get_running_loop().call_later(min(held_s, LONGEST_PAUSE_S), self._give_back, n_bytes)

    def _give_back(self, n_bytes: int) -> None:
        self._free += n_bytes
        self._admit()

    async def _turn(self, n_bytes: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((n_bytes, turn))
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._admit()  # those behind it may find room
            else:  # its turn came in the same moment
                self._give_back(n_bytes)
            if isinstance(error, TimeoutError):
                raise _no_room() from None
            raise

    def _admit(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():  # whoever waited may have left
                if wanted > self._free:
                    return
                self._free -= wanted
                turn.set_result(None)
            self._waiting.popleft()


def _no_room() -> RateError:
    return RateError("other large requests are being worked on", RETRY_S)
