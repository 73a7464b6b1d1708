"""Named points at which a fault test kills the process, as ``kill -9`` would.

``SLUICE_KILL_AT=archiver.after_rename`` dies at that point, ``...after_rename:3`` the third time it
is passed. Unset, as in every deployment, a point costs one comparison. The names live where they
are passed; ``tests/fault/`` kills at each and recounts.
"""

from __future__ import annotations

import os
import signal

_point, _, _count = os.environ.get("SLUICE_KILL_AT", "").partition(":")
_left = int(_count or 1)


def kill_at(point: str) -> None:
    """Die here, with no clean-up, if ``SLUICE_KILL_AT`` names this point."""
    global _left  # noqa: PLW0603 (one countdown a process is the point)
    if point != _point:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
