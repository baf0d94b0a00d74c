"""The base of what is closed when its block ends."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Self


class Closing(abc.ABC):
    """Something that has to be closed after use, as a context manager."""

    @abc.abstractmethod
    def close(self) -> None:
        """Releases what is held. The object is not used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
