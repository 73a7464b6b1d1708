"""A log with a keystore below one folder, appended to as the auditor does, for whole verbs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sluice.application.keep_log import Refused
from sluice.application.log_records import LogRecords
from sluice.application.ports import Message
from sluice.application.sign_release import make_key
from sluice.audit.entries import join
from sluice.audit.notes import LOG, Key
from sluice.bootstrap.keystore import keystore
from sluice.cli import main
from sluice.domain.clock import SystemClock
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Decision
from sluice.domain.records.key_event import record_of
from sluice.domain.records.label import Label
from sluice.domain.records.log_record import AnyRecord
from sluice.domain.records.log_record import encode as encode_record
from sluice.settings import load
from sluice.testing.log import ORIGIN, PRIVATE, KeptCheckpoints, log_at

KEY = str(Key(ORIGIN, LOG, PRIVATE.public_key()))


class SmallLog:
    """root/log is the log. The settings of this process are of its keystore and root/archive."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.folder = root, root / "log"
        for key, path in (
            ("KEYSTORE_PATH", "keys/keys.sqlite"),
            ("KEYSTORE_ROOTS", "roots/roots.json"),
            ("KEYSTORE_COPIES", "copies"),
            ("KEYSTORE_GRANTS", "grantor.pem.pub"),
            ("ARCHIVER_ROOT", "archive"),
        ):
            patch.setenv(f"SLUICE_{key}", str(root / path))
        assert main(["log", "keys", "init"]) == 0
        make_key(root / "grantor.pem")
        self._offsets: dict[str, int] = {}
        self._events = 0
        self._kept = KeptCheckpoints()
        self.asked = ["--log", str(self.folder), "--key", KEY]

    def add(self, *said: Decision | Label | AnyRecord) -> None:
        """A decision or label as its topic has it, or a record of the log as it is; then a
        checkpoint."""
        messages = [self._message(one) for one in said if isinstance(one, Decision | Label)]
        made = self.entries(messages)
        made += [join(encode_record(one)) for one in said if not isinstance(one, Decision | Label)]
        self.write(made)

    def entries(self, messages: Sequence[Message]) -> list[bytes]:
        """Of messages of any topic, sealed."""
        with keystore(load()[0]) as store:
            records = LogRecords(log=ORIGIN, keystore=store)
            read, now = records.read(messages), SystemClock().now_us()
            made = records.entries(read, [False] * len(messages), now)
        assert not any(isinstance(one, Refused) for one in made)
        return [one for one in made if isinstance(one, bytes)]

    def add_key_events(self) -> None:
        """Whatever happened in the keystore since."""
        with keystore(load()[0]) as store:
            events = store.events(self._events, 100)
            at = SystemClock().now_us()
            self._events += len(events)
            made = [
                record_of(one, log=ORIGIN, emitter=store.emitter, recorded_at=at) for one in events
            ]
        self.write([join(encode_record(one)) for one in made])

    def write(self, entries: Sequence[bytes]) -> None:
        log = log_at(self.folder, self._kept)
        log.open()
        log.append(list(entries))
        log.checkpoint()
        log.close()

    def grant(self, authorization_id: str, who: str = "bob", case: str = "DSAR-3") -> str:
        """A file that lets this record be opened."""
        out = self.root / f"grant-{authorization_id}"
        argv = ["log", "grant", authorization_id, "--who", who, "--case", case]
        assert main([*argv, "--key", str(self.root / "grantor.pem"), "--out", str(out)]) == 0
        return str(out)

    def _message(self, said: Decision | Label) -> Message:
        topic = "decisions.v1" if isinstance(said, Decision) else "labels.v1"
        offset = self._offsets[topic] = self._offsets.get(topic, -1) + 1
        return Message(encode(said), None, topic, 0, offset, None)
