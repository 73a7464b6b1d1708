"""What is served here, for clients of Open Inference v2 and of KServe's V1 protocol.

The same documents as KServe's own router makes of the same model, which a test compares; all but
the server's name and version, and its extension: no model is loaded or unloaded from outside.
Source: the protocol's required_api.md, server and model metadata.
"""

from __future__ import annotations

import msgspec

from services.decider import open_inference
from sluice import __version__


def documents(name: str, columns: int) -> dict[str, bytes]:
    """JSON by path. name: of the model. columns: features of a row.

    Whether the model is ready (``/v1/models/{name}``) is none of them: that changes.
    """
    models = {"models": [name]}
    inputs = [
        _tensor(open_inference.FEATURES, "INT64", [-1, columns]),
        _tensor(open_inference.AUTHORIZATIONS, "BYTES", [-1]),
    ]
    outputs = [
        _tensor(open_inference.SCORES, "INT64", [-1]),
        _tensor(open_inference.ANSWERS, "BYTES", [-1]),
    ]
    model = {"name": name, "versions": None, "platform": "", "inputs": inputs, "outputs": outputs}
    made: dict[str, object] = {
        "/v2": {"name": "sluice", "version": __version__, "extensions": []},
        "/v2/models": models,
        f"/v2/models/{name}": model,
        "/v1/models": models,
    }
    return {path: msgspec.json.encode(document) for path, document in made.items()}


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape}
