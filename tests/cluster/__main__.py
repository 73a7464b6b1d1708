"""`make cluster` and `make cluster-down`: `python -m tests.cluster up | down | tools`."""

from __future__ import annotations

import shutil
import sys

from sluice.errors import SluiceError
from tests.cluster import build, images, install, node
from tests.cluster.kube import Kube

USE = """\
ready: Kubernetes with KServe and metrics-server, and the services' image as {image} and {next}
  export KUBECONFIG={kubeconfig}
  export PATH={bin}:$PATH    # kubectl
Services and pods answer here by their own addresses; pods reach this machine as {host}.
make cluster-down ends it."""


def up() -> None:
    """Start it, install what the chart needs, and say how to use it."""
    if reason := node.why_not():
        sys.exit(f"make cluster: {reason}")
    made = node.up(detached=True)
    built = build.built()
    install.install(made, built, Kube(built / "bin/kubectl", made.kubeconfig))
    images.load_services(made)
    print(
        USE.format(
            image=images.SERVICES,
            next=images.NEXT,
            kubeconfig=made.kubeconfig,
            bin=built / "bin",
            host=node.HOST,
        )
    )


def down() -> None:
    """End it, whichever checkout started it."""
    print("the cluster has ended" if node.down() else "no cluster runs on this machine")


def tools() -> None:
    """Print the Debian packages that this machine lacks."""
    print(*sorted({p for name, p in node.PACKAGES.items() if shutil.which(name) is None}))


if __name__ == "__main__":
    verb = {"up": up, "down": down, "tools": tools}[sys.argv[1]]
    try:
        verb()
    except SluiceError as error:
        sys.exit(f"make cluster: {error}")
