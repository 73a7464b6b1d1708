"""The port Store on one Redis or Valkey server."""

from __future__ import annotations

from collections.abc import Callable

from sluice.adapters.redis.address import Address
from sluice.adapters.redis.online import RedisOnlineStore
from sluice.adapters.redis.states import RedisStateStore
from sluice.adapters.redis.watermark import RedisWatermark
from sluice.application.ports import Count, uncounted
from sluice.domain.clock import Clock


class RedisStore:
    """Where the server is, and how long we wait and remember; see the settings of ``store``."""

    def __init__(
        self,
        url: str | Address,
        clock: Clock,
        *,
        budget_s: float,
        batch_budget_s: float,
        identify_budget_s: float,
        in_progress_ttl_s: float,
        answer_ttl_s: float,
        count: Count = uncounted,
    ) -> None:
        self._count = count
        self._url = url
        self._clock = clock
        self._budget_s = budget_s
        self._batch_budget_s = batch_budget_s
        self._identify_budget_s = identify_budget_s
        self._in_progress_ttl_s = in_progress_ttl_s
        self._answer_ttl_s = answer_ttl_s

    def online(self, *, batches: bool, on_trust: Callable[[str], None]) -> RedisOnlineStore:
        """See the port."""
        return RedisOnlineStore(
            self._url,
            self._clock,
            budget_s=self._batch_budget_s if batches else self._budget_s,
            identify_budget_s=self._identify_budget_s,
            at_once=not batches,
            in_progress_ttl_s=self._in_progress_ttl_s,
            answer_ttl_s=self._answer_ttl_s,
            on_trust=on_trust,
            count=self._count,
        )

    def states(self) -> RedisStateStore:
        """See the port."""
        return RedisStateStore(self._url, answer_ttl_s=self._answer_ttl_s, count=self._count)

    def watermark(self) -> RedisWatermark:
        """See the port."""
        return RedisWatermark(self._url, count=self._count)
