"""Wait until what a Helm release asked for runs; exit 1 with the reason if it does not come up.

An InferenceService stays Ready while its old pods answer, so that `helm upgrade --wait=legacy` ends
well though a bad release of the model never serves. This looks at the new pods of each Deployment
and StatefulSet, and of those that KServe makes, through kubectl. It gives up as soon as a pod has
been for half a minute in what does not end by itself (no image, no secret, exits again and again),
and prints what Kubernetes and the pod say. It changes nothing: roll back by Helm.

sluice rollout sluice -n fraud || helm rollback sluice -n fraud
"""

from __future__ import annotations

import time

import click

from sluice.application.rollout import Failed, wait
from sluice.bootstrap import verbs
from sluice.cli.output import say
from sluice.cli.text import help_of
from sluice.errors import Unavailable

LINES = 10
"""Of the log of the pod that does not come up."""


@click.command(help=help_of(__doc__))
@click.argument("release")
@click.option("--namespace", "-n", default="", metavar="NAME", help="Default: the kubeconfig's.")
@click.option("--context", default="", metavar="NAME", help="Default: the kubeconfig's.")
@click.option(
    "--timeout",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Longest it may take.",
)
def command(release: str, namespace: str, context: str, timeout: int) -> int:
    """Returns 0. Raises Unavailable with why, Misconfigured without kubectl."""
    cluster = verbs.cluster(namespace, context)
    found = wait(
        cluster,
        release,
        timeout,
        steady_s=time.monotonic,
        pause=time.sleep,
        news=lambda line: say(line, err=True),
    )
    if isinstance(found, int):
        say(f"{release}: {found} workloads run what was asked for")
        return 0
    if found.pod is not None and found.trouble is not None:
        before, container = found.trouble.restarted, found.trouble.container
        for line in cluster.last_lines(found.pod.name, container, LINES, before=before):
            say(f"  {found.pod.name} | {line}", err=True)
    raise _not_up(found, release, namespace)


def _not_up(found: Failed, release: str, namespace: str) -> Unavailable:
    where = f"{found.workload.kind} {found.workload.name}".strip()
    back = f"helm rollback {release}" + (f" --namespace {namespace}" if namespace else "")
    return Unavailable(
        f"{release} does not come up: {found.why}",
        where=where + (f", pod {found.pod.name}" if found.pod else ""),
        fix=f"{back}; until then the old pods go on, where there are any",
    )
