"""``labels.v1`` in memory, with the failures of a broker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sluice.application.ports import Message
from sluice.errors import Corrupt, Unavailable


class Log:
    """What all writers of one topic share."""

    def __init__(self) -> None:
        self.labels: list[Message] = []
        self.dead_letters: list[tuple[str, bytes]] = []
        self.writer: object = None


class FakeLabelTopic:
    """See :class:`sluice.application.label.LabelTopic`; a new one on a log fences the one before.

    fail: the next write raises; "lost" writes nothing, "unheard" writes all and does not say so.
    down: nothing can be read.
    """

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or Log()
        self.log.writer = self
        self.fail = ""
        self.down = False
        self._read = 0

    def put(self, value: bytes) -> None:
        """Written by another one, as ``sluice publish`` does."""
        at = len(self.log.labels)
        self.log.labels.append(Message(value, b"", "labels.v1", 0, at, None))

    def news(self) -> Iterator[Message]:
        """See the port."""
        self._check()
        while self._read < len(self.log.labels):
            self._read += 1
            yield self.log.labels[self._read - 1]

    def write(
        self, labels: Sequence[tuple[str, bytes]], dead_letters: Sequence[tuple[str, bytes]]
    ) -> None:
        """See the port."""
        self._check()
        fail, self.fail = self.fail, ""
        if fail != "lost":
            for _, value in labels:
                self.put(value)
            self.log.dead_letters += dead_letters
        if fail:
            raise Unavailable("the fake topic lost its broker")

    def close(self) -> None:
        """Nothing is held."""

    def _check(self) -> None:
        if self.log.writer is not self:
            raise Corrupt("another labeller took over", code="fenced")
        if self.down:
            raise Unavailable("the fake topic is down")
