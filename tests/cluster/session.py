"""A cluster with all that the chart needs, for as long as it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import build, images, install, node
from tests.cluster.kube import Kube


@contextmanager
def cluster() -> Iterator[node.Node]:
    """The one that `make cluster` started on this machine, which stays; or one of our own, which
    ends with the `with` or with us. Raises Unavailable."""
    found = node.running()
    made = found or node.up(detached=False)
    try:
        install.install(made, build.built(), kubectl(made))
        images.load_services(made)
        yield made
    finally:
        if found is None:
            node.down()


def kubectl(of: node.Node) -> Kube:
    """As its administrator."""
    return Kube(build.built() / "bin/kubectl", of.kubeconfig)
