"""An event loop whose time is a number: it jumps to the next timer instead of waiting for it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Finds nothing, and takes no time to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """Deterministic: as fast as the machine is, and the same on each."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since it was made."""
        return self._jumping.now

    def now_us(self) -> int:
        """The same as a :class:`sluice.domain.clock.Clock`, from the year 2026 on."""
        return 1_767_225_600_000_000 + round(self._jumping.now * 1_000_000)

    def spend(self, seconds: float) -> None:
        """Keep the loop busy for so long: nothing else runs, timers fire late."""
        self._jumping.now += seconds


def run(loop: VirtualLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run main on a loop until it ends."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
