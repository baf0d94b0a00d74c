"""Places for messages that are on their way, shared out so that a silent peer keeps nobody waiting."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable

from tuner_server.core.errors import InvalidInputError, RateError

RETRY_S = 0.5
"""How soon to come again after a message was cut short because others waited."""


@dataclasses.dataclass(eq=False, slots=True)
class _Arrival:
    """A message that is on its way."""

    caller: Hashable
    begin_s: float
    """The time on the loop's clock at which it got its place."""
    deadline: asyncio.Timeout
    hurried: bool = False
    """Whether its time was cut short for others."""


class Arrivals:
    """Places for messages that are on their way, on one event loop.

    A message may take long while there is room. As soon as somebody waits, whoever has more than an equal part of the
    places has only `patience_s` for each, counted from its beginning; and callers that wait take turns, however many
    messages each has.
    """

    def __init__(self, n_places: int, longest_s: float, patience_s: float) -> None:
        """Admits so many at a time.

        Args:
            n_places: how many messages may be on their way.
            longest_s: how long a message may take.
            patience_s: how long it may take if others wait for its place.
        """
        self._n_places, self._longest_s, self._patience_s = n_places, longest_s, patience_s
        self._arriving: set[_Arrival] = set()
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        """Those that wait for a place, by their callers; the caller whose turn is next is the first."""
        self._n_promised = 0
        """Places that were given to somebody who has not woken up yet."""

    @contextlib.asynccontextmanager
    async def place(self, caller: Hashable) -> AsyncIterator[None]:
        """A place for a message of `caller`, from the wait for it to the message's last byte.

        Raises:
            InvalidInputError: the message did not arrive in time.
            RateError: it did not arrive in time for others that waited.
        """
        await self._turn(caller)
        now_s = asyncio.get_running_loop().time()
        arrival = None
        try:
            async with asyncio.timeout(self._longest_s) as deadline:
                arrival = _Arrival(caller, now_s, deadline)
                self._arriving.add(arrival)
                self._hurry()
                yield
        except TimeoutError:
            if arrival is not None and arrival.hurried:
                raise RateError("the request took too long to arrive while others waited", RETRY_S) from None
            raise InvalidInputError.of("request", f"it did not arrive within {self._longest_s:g} s") from None
        finally:
            if arrival is not None:
                self._arriving.discard(arrival)
            self._admit()

    async def _turn(self, caller: Hashable) -> None:
        """Waits until there is a place."""
        if not self._waiting and len(self._arriving) + self._n_promised < self._n_places:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._hurry()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(caller, turn)
            else:  # the place came in the same moment: it is the next one's
                self._n_promised -= 1
                self._admit()
            raise
        self._n_promised -= 1

    def _admit(self) -> None:
        """Gives free places to those whose turn it is."""
        while self._waiting and len(self._arriving) + self._n_promised < self._n_places:
            caller, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[caller] = turns  # behind all other callers
            if not turn.done():  # whoever waited may have just left, and not yet have said so
                self._n_promised += 1
                turn.set_result(None)

    def _forget(self, caller: Hashable, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(caller, deque())
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[caller]

    def _hurry(self) -> None:
        """Cuts the time of those short that have more than an equal part while others wait."""
        if not self._waiting:
            return
        held = Counter(arrival.caller for arrival in self._arriving)
        equal = self._n_places / len(held.keys() | self._waiting.keys())
        loop = asyncio.get_running_loop()
        for arrival in self._arriving:
            if held[arrival.caller] > equal and not arrival.hurried:
                arrival.hurried = True
                at_s = max(arrival.begin_s + self._patience_s, loop.time())
                arrival.deadline.reschedule(min(at_s, arrival.begin_s + self._longest_s))
