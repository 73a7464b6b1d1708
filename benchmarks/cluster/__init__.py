"""Sluice on a cluster under load: ``make bench-cluster``, for whatever the kubeconfig leads to.

A Job brings the load (`loader`: Locust's master and workers through the sync API, then a burst for
the stream processor) and recounts the topics. Meanwhile `watch` asks Kubernetes for replicas and
processor time. `page` draws all of it over time.
"""
