"""Send one authorization through a whole deployment, and find its decision and its state.

  sluice smoke-test --url http://sluice-decider

It asks the sync API, reads the decision from decisions.v1, and waits for the state that the
featurizer makes of it in the online store: `helm test` runs it. Brokers and store are those of the
settings. What it sends is an authorization like any other and stays in the log: of a new card and
merchant whose names begin with smoke-test, for 0.01 EUR.
"""

from __future__ import annotations

from pathlib import Path

import click

from sluice.bootstrap import verbs
from sluice.cli.output import say
from sluice.cli.parameters import FOLDER
from sluice.cli.text import help_of
from sluice.settings import load


@click.command(help=help_of(__doc__))
@click.option("--url", required=True, metavar="URL", help="Of the sync API, without a path.")
@click.option("--tenant", default="smoke-test", show_default=True, help="One that we may ask for.")
@click.option("--token-file", type=FOLDER, metavar="FILE", help="A bearer token.")
@click.option("--ca-file", default="", metavar="FILE", help="CA of the sync API's certificate.")
@click.option("--cert-file", default="", metavar="FILE", help="Our certificate, PEM.")
@click.option("--key-file", default="", metavar="FILE", help="Its private key, PEM.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1, max=3600),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="For all of it.",
)
def command(
    url: str,
    tenant: str,
    token_file: Path | None,
    ca_file: str,
    cert_file: str,
    key_file: str,
    timeout: float,
) -> int:
    """Returns 0. Raises Unavailable, Rejected, Corrupt, Misconfigured."""
    seen = verbs.smoke_test(
        load()[0],
        url,
        tenant=tenant,
        token_file=token_file,
        tls_files=(ca_file, cert_file, key_file),
        timeout_s=timeout,
    )
    say(
        f"answered {seen.answer.outcome} ({seen.answer.degradation_level}), "
        f"recorded at {seen.place}, state of {seen.state_bytes} bytes, {seen.seconds:.1f} s"
    )
    return 0
