"""Whether the online store still holds what was put there: asked beside the decisions.

Evictions show in no reply: an evicted state reads as a card never seen. The server counts them, and
says by its policy whether there can be any.
"""

from __future__ import annotations

from collections.abc import Callable

from sluice.application.ports import UNKNOWN, StateStore, StoreInfo, WatermarkStore
from sluice.errors import SluiceError

REPLICA = (
    "it is a replica, which takes no writes and may be behind: let store.url lead to the primary"
)


class StoreWatch:
    """A decider's. show: told the store's figures. policy: told its eviction policy, UNKNOWN where
    it does not tell, and why. distrust: told why no state may be served, "" for no reason."""

    def __init__(
        self,
        states: StateStore,
        watermark: WatermarkStore,
        *,
        show: Callable[[StoreInfo], None],
        policy: Callable[[str, str], None],
        distrust: Callable[[str], None],
    ) -> None:
        self._states = states
        self._watermark = watermark
        self._show = show
        self._policy = policy
        self._distrust = distrust

    def look(self) -> None:
        """Ask it once. One that is down, or hides its figures, is trusted as before."""
        try:
            info = self._states.info()
            mark = self._watermark.read()
        except SluiceError as error:
            self._policy(UNKNOWN, str(error))
            return
        self._show(info)
        self._policy(info.eviction_policy, "")
        self._distrust(REPLICA if info.replica else mark.why_forgetful(info))
