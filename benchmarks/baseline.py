"""The baseline, for comparison: ``python -m benchmarks.baseline``.

KServe's stock ModelServer with its REST predictor, Feast's ``get_online_features`` for the states,
confluent-kafka's produce and flush for the record. What is behind these three is our own walk:
kernel, model, policy and record are the same code, so the answers are equal and the difference is
what the three cost. It claims no id and knows no pending authorization, which saves it work.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer
from feast import FeatureStore
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from sluice.adapters.onnx.release import ReleaseDirectory, read_trust
from sluice.adapters.policyfiles.files import PolicyFiles
from sluice.application.decide import Decided, DecisionPipeline
from sluice.application.once import LookedUp
from sluice.application.ports import Arrival, Lookup
from sluice.domain.clock import SECOND_US, SystemClock
from sluice.domain.features import catalogue
from sluice.domain.records.authorization import EventTimeBounds, encode
from sluice.domain.records.decision import Decision

NAME = "baseline"
FEATURES = [f"{view}_state:{view}_packed" for view in ("card", "terminal", "merchant", "device")]


class FeastStore:
    """States as Feast's documentation reads them."""

    def __init__(self, repository: Path) -> None:
        self._feast = FeatureStore(repo_path=str(repository))

    async def look_up(self, batch: Sequence[Arrival], *, late: bool) -> LookedUp:
        found = self._feast.get_online_features(
            features=FEATURES,
            entity_rows=[
                {
                    "card_token": a.auth.card_token,
                    "terminal_id": a.auth.terminal_id,
                    "merchant_id": a.auth.merchant_id,
                    "device_id": a.auth.device_id or "",
                }
                for a in batch
            ],
        ).to_dict()
        columns = [found[name.partition(":")[2]] for name in FEATURES]
        lookups = [
            Lookup(card or b"", terminal or b"", merchant or b"", device or b"")
            for card, terminal, merchant, device in zip(*columns, strict=True)
        ]
        return LookedUp(lookups, [])

    def remember(self, answers: object) -> None:
        pass

    def release(self, arrivals: object) -> None:
        pass

    def hold(self, arrivals: object) -> None:
        pass


class FlushedLog:
    """A record is durable when flush returns."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
        self._topic = topic

    async def append(self, decisions: Sequence[tuple[Arrival, Decision]], became: object) -> None:
        for arrival, decision in decisions:
            self._producer.produce(self._topic, encode(decision), arrival.auth.card_token)
        self._producer.flush()


class Predictor(Model):
    """One BYTES tensor in, the authorization's JSON; one out, the answer's."""

    def __init__(self, decider: DecisionPipeline) -> None:
        super().__init__(NAME)
        self._decider = decider
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: dict[str, str] | None = None
    ) -> InferResponse:
        text = payload.inputs[0].data[0]
        arrival = self._decider.arrive(text if isinstance(text, bytes) else text.encode())
        (result,) = await self._decider.decide([arrival])
        assert isinstance(result, Decided)
        answer = InferOutput(
            name="answer", shape=[1], datatype="BYTES", data=[result.answer.decode()]
        )
        return InferResponse(payload.id or arrival.auth.authorization_id, NAME, [answer])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    for folder in ("repository", "release", "trust", "policy"):
        parser.add_argument(f"--{folder}", type=Path, required=True)
    args = parser.parse_args()
    policy = PolicyFiles(args.policy, catalogue.FEATURES)
    release = ReleaseDirectory(
        args.release,
        read_trust(args.trust),
        catalogue.FEATURES,
        policy.current().fx.reference,
        entrypoint="sync",
    )
    release.poll()
    decider = DecisionPipeline(
        entrypoint="sync",
        emitter="baseline",
        ids=FeastStore(args.repository),
        scorer=release,
        policy=policy,
        log=FlushedLog(args.bootstrap, args.topic),
        clock=SystemClock(),
        bounds=EventTimeBounds(max_age_us=10 * 365 * 86_400 * SECOND_US),
    )
    ModelServer(http_port=args.port, grpc_port=args.grpc_port).start([Predictor(decider)])


if __name__ == "__main__":
    main()
