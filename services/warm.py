"""``python -m services.warm``: compile the kernels into their cache, as an image is built.

Decides one authorization over empty states by the default policy. It takes half a minute once,
instead of at every start.
"""

from __future__ import annotations

import numpy as np

from sluice.application.never_logged import search
from sluice.bootstrap import verbs
from sluice.domain.features.events import event_row, event_rows, pending_rows, to_pending
from sluice.domain.features.kernel import Kernel, scratch, update
from sluice.domain.records.authorization import Authorization, Channel
from sluice.settings import Settings


def main() -> None:
    """Run each compiled function once."""
    auth = Authorization(
        authorization_id="warm",
        event_at=1_767_225_600_000_000,
        card_token="warm",
        merchant_id="warm",
        terminal_id="warm",
        mcc="5411",
        channel=Channel.POS,
        amount_minor=1,
        currency="EUR",
        merchant_country="DE",
        card_country="DE",
        region="warm",
        tenant="warm",
    )
    row = event_row(auth, 1)
    pending = pending_rows([to_pending(auth, row, auth.event_at)])
    changes = np.zeros((1, 4), np.int64)
    update([("card", "")], [b""], np.array([0, 1]), event_rows([row]), changes, scratch())
    update([("device", "")], [b""], np.array([0, 1]), event_rows([row]), changes, scratch())
    served = Kernel().finalise(event_rows([row]), [(b"", b"", b"", b"")], [pending])
    for scores in (None, np.zeros(1, np.int64)):
        verbs.policies(Settings()).current().decide(
            [auth],
            served.features,
            missing=served.missing,
            level=np.zeros(1, np.int64) if scores is not None else np.full(1, 2, np.int64),
            score_ppm=scores,
            explain=None,
        )
    search([b"{}"])


if __name__ == "__main__":
    main()
