"""What we say of ourselves is what KServe's own server says of the same model."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from kserve import Model, ModelServer
from kserve.model_server import app
from kserve.protocol.rest.server import RESTServer

from services.decider import open_inference
from services.decider.http import SyncApi
from sluice.testing.deciding import COLUMNS, FakePipeline

# KServe's own, of its own server.
pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")
PATHS = ("/v2/models", "/v2/models/sluice", "/v1/models", "/v1/models/sluice")


class Described(Model):  # type: ignore[misc] # KServe has no types
    """The decider, as a model of KServe's."""

    def get_input_types(self) -> list[dict[str, Any]]:
        return [
            {"name": open_inference.FEATURES, "datatype": "INT64", "shape": [-1, len(COLUMNS)]},
            {"name": open_inference.AUTHORIZATIONS, "datatype": "BYTES", "shape": [-1]},
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": open_inference.SCORES, "datatype": "INT64", "shape": [-1]},
            {"name": open_inference.ANSWERS, "datatype": "BYTES", "shape": [-1]},
        ]


@pytest.fixture(scope="module")
def kserves() -> Any:
    """KServe's application, complete; it keeps it in a module."""
    logging.getLogger("kserve").addHandler(logging.NullHandler())  # else it configures its own
    server = ModelServer(workers=1, enable_grpc=False)
    model = Described("sluice")
    model.ready = True
    server.register_model(model)
    RESTServer(
        "kserve.model_server:app", server.dataplane, server.model_repository_extension, 0
    ).create_application()
    return app


async def asked(application: Any, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        return await client.get(path)


@pytest.fixture
def ours() -> SyncApi:
    return SyncApi(FakePipeline(), name="sluice", columns=COLUMNS, in_flight_max=4)


@pytest.mark.parametrize("path", PATHS)
async def test_a_models_metadata_is_what_kserve_says_of_it(
    ours: SyncApi, kserves: Any, path: str
) -> None:
    own, its = await asked(ours, path), await asked(kserves, path)
    assert (own.status_code, own.headers["content-type"]) == (200, "application/json")
    assert own.json() == its.json()


async def test_the_servers_metadata_has_kserves_fields_and_says_who_it_is(
    ours: SyncApi, kserves: Any
) -> None:
    own, its = (await asked(ours, "/v2")).json(), (await asked(kserves, "/v2")).json()
    assert {k: type(v) for k, v in own.items()} == {k: type(v) for k, v in its.items()}
    assert (own["name"], own["extensions"]) == ("sluice", [])
