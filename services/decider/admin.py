"""The admin port of the sync API: what an operator asks, on a listener of its own.

It has its own connections, so it answers when the public port is full, and what only an operator
may ask is nowhere else: metrics, and the exact score of any row.
"""

from __future__ import annotations

import asyncio

import prometheus_client
from prometheus_client import CollectorRegistry, exposition

from services.decider.access import OPERATORS
from services.decider.asgi import App, Receive, Scope, Send, respond, respond_problem
from services.decider.http import SyncApi
from services.decider.problems import problem


class Admin:
    """The ASGI application. name: the model's, in ``/v2/models/{name}``."""

    def __init__(
        self, api: SyncApi, name: str, registry: CollectorRegistry = prometheus_client.REGISTRY
    ) -> None:
        self._api = api
        self._registry = registry
        self._page = asyncio.Lock()
        self._routes: dict[str, tuple[str, App]] = {
            "/metrics": ("GET", self._metrics),
            "/v2/health/live": ("GET", api.live),
            "/v2/health/ready": ("GET", api.is_ready),
            f"/v2/models/{name}/ready": ("GET", api.is_ready),
            f"/v2/models/{name}/infer": ("POST", api.score),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if whoever sends it may."""
        await self._api.let_in(OPERATORS, self._serve, scope, receive, send)

    @property
    def paths(self) -> frozenset[str]:
        """All that are served here, but for what the sync API has KServe answer."""
        return frozenset(self._routes)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"])
        if route is None:
            await self._api.pass_on(scope, receive, send)
        elif route[0] != scope["method"] and (route[0], scope["method"]) != ("GET", "HEAD"):
            await respond_problem(
                send, problem("method_not_allowed"), (b"allow", route[0].encode())
            )
        else:
            await route[1](scope, receive, send)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        encoder, content_type = exposition.choose_encoder(accept.decode("latin-1"))
        async with self._page:  # one at a time, and beside the loop: it takes milliseconds
            page = await asyncio.to_thread(encoder, self._registry)
        await respond(send, 200, page, (b"content-type", content_type.encode()))
