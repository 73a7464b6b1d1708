"""Kubernetes, by ``kubectl``: what a Helm release's workloads look like, and what its pods said."""

from sluice.adapters.kubernetes.kubectl import Kubectl
from sluice.adapters.kubernetes.workloads import workloads

__all__ = ["Kubectl", "workloads"]
