"""A stream door that echoes: each authorization becomes one decision, until it is ended."""

import os
import signal
import sys

from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalDoor
from sluice.errors import Unavailable


def main(bootstrap: str, prefix: str, identity: str) -> None:
    topics = Topics(prefix)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    door = TransactionalDoor(
        bootstrap,
        group=f"{prefix}door",
        topics=[topics.authorizations],
        transactional_id=f"{prefix}{identity}",
        client_id=identity,
    )
    while not stopping:
        batch = door.poll_batch(50, 0.1)
        if not batch:
            continue
        try:
            door.begin()
            for message in batch:
                door.produce(
                    topics.decisions, message.key, message.value + b" " + identity.encode()
                )
            door.commit({(m.topic, m.partition): m.offset + 1 for m in batch})
        except Unavailable as error:
            print(identity, error, file=sys.stderr)
            door.abort()
    door.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
    sys.exit(os.EX_OK)
