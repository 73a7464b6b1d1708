"""A stream processor that echoes: each authorization becomes one decision, until it is ended."""

import os
import signal
import sys

from sluice.adapters.kafka.topics import Topics
from sluice.adapters.kafka.transactions import TransactionalStream
from sluice.errors import Unavailable


def main(bootstrap: str, prefix: str, identity: str) -> None:
    topics = Topics(prefix)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    entrypoint = TransactionalStream(
        bootstrap,
        group=f"{prefix}entrypoint",
        topics=[topics.authorizations],
        transactional_id=f"{prefix}{identity}",
        client_id=identity,
    )
    while not stopping:
        batch = entrypoint.poll_batch(50, 0.1)
        if not batch:
            continue
        try:
            entrypoint.begin()
            for message in batch:
                entrypoint.produce(
                    topics.decisions, message.key, message.value + b" " + identity.encode()
                )
            entrypoint.commit({(m.topic, m.partition): m.offset + 1 for m in batch})
        except Unavailable as error:
            print(identity, error, file=sys.stderr)
            entrypoint.abort()
    entrypoint.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
    sys.exit(os.EX_OK)
