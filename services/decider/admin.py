"""The admin port of the sync API: what an operator asks, on a listener of its own.

It has its own connections, so it answers when the public port is full, and what only an operator
may ask is nowhere else: metrics, and the exact score of any row.
"""

from __future__ import annotations

import asyncio
from functools import partial

import prometheus_client
from prometheus_client import CollectorRegistry, exposition

from services.decider.access import OPERATORS
from services.decider.asgi import App, Receive, Scope, Send, respond
from services.decider.http import SyncApi


class Admin:
    """The ASGI application. name: the model's, in ``/v2/models/{name}``."""

    def __init__(
        self, api: SyncApi, name: str, registry: CollectorRegistry = prometheus_client.REGISTRY
    ) -> None:
        self._api = api
        self._registry = registry
        self._page = asyncio.Lock()
        ready = partial(api.is_ready, inner=True)
        self._routes: dict[str, tuple[str, App]] = {
            "/metrics": ("GET", self._metrics),
            "/v2/health/live": ("GET", api.live),
            "/v2/health/ready": ("GET", ready),
            f"/v2/models/{name}/ready": ("GET", ready),
            f"/v2/models/{name}/infer": ("POST", api.score),
            **api.metadata,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if whoever sends it may."""
        serve = partial(self._api.serve, self._routes)
        await self._api.let_in(OPERATORS, serve, scope, receive, send)

    @property
    def paths(self) -> frozenset[str]:
        """All that are served here."""
        return frozenset(self._routes)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        encoder, content_type = exposition.choose_encoder(accept.decode("latin-1"))
        async with self._page:  # one at a time, and beside the loop: it takes milliseconds
            page = await asyncio.to_thread(encoder, self._registry)
        await respond(send, 200, page, (b"content-type", content_type.encode()))
