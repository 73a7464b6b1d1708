"""Who may ask the sync API: routes, tenants, scopes and limits, on the ASGI application."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.decider.access import (
    API,
    OPERATORS,
    TOKENS_MAX,
    Access,
    Limits,
    Peer,
    without_score,
)
from services.decider.admin import Admin
from services.decider.http import SyncApi
from sluice.adapters.identity.clients import ClientsFile
from sluice.adapters.identity.keys import KeySet
from sluice.adapters.identity.tokens import JwtTokens
from sluice.application.access import Clients
from sluice.domain.records.authorization import encode
from sluice.domain.records.decision import Answer
from sluice.domain.records.outcome import Outcome
from sluice.telemetry import Metrics
from sluice.testing.deciding import COLUMNS, FakePipeline
from tests.support.issuer import AUDIENCE, ISSUER, Issuer
from tests.unit.services.test_decider_http import Answer as Heard
from tests.unit.services.test_decider_http import ask, with_

ALGORITHMS = ("RS256", "ES256")
BOTH = "authorize score"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


def tokens_of(issuer: Issuer) -> JwtTokens:
    keys = KeySet(str(issuer.keys), ALGORITHMS)
    keys.read()
    return JwtTokens(
        keys,
        issuer=ISSUER,
        audience=AUDIENCE,
        leeway_s=0,
        tenant_claim="tenant",
        scope_claim="scope",
        refresh_s=300,
        read=lambda _error: None,
    )


class Place:
    """A sync API that asks for credentials, what lies behind it, and what it counted."""

    def __init__(
        self,
        issuer: Issuer,
        *,
        limits: Limits | None = None,
        clients: Clients | None = None,
        clock: Any = time.monotonic,
        now: Any = time.time,
        tokens_max: int = TOKENS_MAX,
    ) -> None:
        self.decider = FakePipeline()
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.access = Access(
            tokens_of(issuer),
            clients,
            limits=limits or Limits(),
            metrics=metrics,
            tokens_max=tokens_max,
            now=now,
            monotonic=clock,
        )

        self.api = SyncApi(
            self.decider,
            name="sluice",
            columns=COLUMNS,
            in_flight_max=64,
            metrics=metrics,
            access=self.access,
        )
        self.admin = Admin(self.api, "sluice", self.registry)

    async def ask(
        self,
        token: str | None = None,
        path: str = "/v1/authorizations",
        *,
        of: Any = None,
        **more: Any,
    ) -> Heard:
        """of: the admin port's application, instead of the API's."""
        more.setdefault("body", with_())
        if token is not None:
            more["authorization"] = f"Bearer {token}"
        return await ask(of or self.api, path, **more)

    def refused(self, reason: str) -> float:
        name = "sluice_decider_access_refused_total"
        return self.registry.get_sample_value(name, {"reason": reason}) or 0.0


@pytest.fixture
def place(issuer: Issuer) -> Place:
    return Place(issuer)


async def test_a_token_of_the_tenant_gets_a_decision(place: Place, issuer: Issuer) -> None:
    answer = await place.ask(issuer.token())
    assert (answer.status, answer.json["outcome"]) == (200, "approve")


async def test_an_es256_token_and_a_list_of_tenants_are_taken(place: Place, issuer: Issuer) -> None:
    token = issuer.token(kid="ec-1", tenant=["other", "bank"], scope=["authorize", "nonsense"])
    assert (await place.ask(token)).status == 200


async def test_the_same_request_again_is_the_same_answer(place: Place, issuer: Issuer) -> None:
    """Also with another token, of whoever sees the score."""
    first, second = await place.ask(issuer.token()), await place.ask(issuer.token())
    seen = await place.ask(issuer.token(scope=BOTH))
    assert first.body == second.body
    assert seen.headers["idempotent-replay"] == "true"
    assert {k: v for k, v in seen.json.items() if k != "score_ppm"} == first.json


# ---------------------------------------------------------------- each route, each wrong credential


def filled(path: str) -> str:
    return path.replace("{name}", "sluice")


def unsigned(token: str) -> str:
    """The same claims with alg none and no signature."""
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def with_hmac(issuer: Issuer, token: str) -> str:
    """The same claims, signed with the issuer's public key as a secret."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"rsa-1"}').rstrip(b"=")
    signed = header + b"." + token.split(".")[1].encode()
    mac = hmac.new(issuer.public_pem(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def wrong(issuer: Issuer) -> dict[str, tuple[str | None, int, str, str]]:
    """Credential, and the status, code and reason that it gets on every route that asks for one."""
    now = int(time.time())
    all_scopes = {"scope": "authorize score admin"}
    good = issuer.token(**all_scopes)
    head, body, signature = good.split(".")
    broken = f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    return {
        "none": (None, 401, "unauthenticated", "none"),
        "no token": ("", 401, "invalid_token", "malformed"),
        "nonsense": ("nonsense", 401, "invalid_token", "malformed"),
        "huge": ("x" * 10_000, 401, "invalid_token", "malformed"),
        "expired": (issuer.token(exp=now - 10, **all_scopes), 401, "invalid_token", "expired"),
        "not yet valid": (
            issuer.token(nbf=now + 60, **all_scopes), 401, "invalid_token", "not_yet_valid"
        ),
        "without end": (issuer.token(exp=None, **all_scopes), 401, "invalid_token", "malformed"),
        "wrong aud": (
            issuer.token(aud="elsewhere", **all_scopes), 401, "invalid_token", "wrong_audience"
        ),
        "no aud": (issuer.token(aud=None, **all_scopes), 401, "invalid_token", "wrong_audience"),
        "wrong issuer": (
            issuer.token(iss="https://else.example", **all_scopes),
            401, "invalid_token", "wrong_issuer",
        ),
        "unsigned": (unsigned(good), 401, "invalid_token", "wrong_algorithm"),
        "HMAC with the public key": (
            with_hmac(issuer, good), 401, "invalid_token", "wrong_algorithm"
        ),
        "algorithm not allowed": (
            issuer.token(alg="RS512", **all_scopes), 401, "invalid_token", "wrong_algorithm"
        ),
        "another's signature": (broken, 401, "invalid_token", "bad_signature"),
        "unknown key": (
            issuer.token(kid="rsa-9", **all_scopes), 401, "invalid_token", "unknown_key"
        ),
        "nameless": (issuer.token(sub=None, **all_scopes), 401, "invalid_token", "malformed"),
        "ID token of another type": (
            issuer.token(tenant=None, scope=None), 403, "insufficient_scope", "wrong_scope"
        ),
        "wrong scope": (
            issuer.token(scope="settle"), 403, "insufficient_scope", "wrong_scope"
        ),
    }  # fmt: skip


CASES = (
    *("none", "no token", "nonsense", "huge", "expired", "not yet valid", "without end"),
    *("wrong aud", "no aud", "wrong issuer", "unsigned", "HMAC with the public key"),
    *("algorithm not allowed", "another's signature", "unknown key", "nameless"),
    *("ID token of another type", "wrong scope"),
)
GUARDED = [
    (port, path)
    for port, routes in (("api", API), ("admin", OPERATORS))
    for path, scopes in routes.table.items()
    if scopes
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("port", "path"), GUARDED)
async def test_a_wrong_credential_gets_nothing_anywhere(
    place: Place, issuer: Issuer, port: str, path: str, case: str, capsysbinary: Any
) -> None:
    token, status, code, reason = wrong(issuer)[case]
    of = place.admin if port == "admin" else place.api
    for method in ("POST", "GET"):
        answer = await place.ask(token, filled(path), of=of, method=method)
        assert (answer.status, answer.json["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        if token:
            assert token not in answer.body.decode()
    assert place.decider.batches == []
    assert place.refused(reason) == 2
    await place.api.close()
    captured = capsysbinary.readouterr()
    for part in (token or "").split("."):
        assert not part or part.encode() not in captured.out + captured.err


def test_every_case_is_tried(issuer: Issuer) -> None:
    assert set(wrong(issuer)) == set(CASES)


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/authorizations", "score"),
        ("/v1/authorizations", "admin"),
        ("/v1/models/sluice:predict", "score"),
        ("/v2/models/sluice/infer", "admin"),
        ("/v2/models/sluice/infer", "score"),
        ("admin /v2/models/sluice/infer", "authorize admin"),
        ("admin /v2/models/sluice", BOTH),
        ("admin /v1/models", BOTH),
    ],
)
async def test_a_scope_opens_its_own_routes_and_no_others(
    place: Place, issuer: Issuer, path: str, scope: str
) -> None:
    of = place.admin if path.startswith("admin") else place.api
    answer = await place.ask(issuer.token(scope=scope), path.removeprefix("admin "), of=of)
    assert (answer.status, answer.json["code"]) == (403, "insufficient_scope")
    assert place.decider.batches == []


async def test_an_authorization_of_another_tenant_is_refused_before_it_is_claimed(
    place: Place, issuer: Issuer
) -> None:
    """So the real one, with the same id, is no conflict."""
    stranger = issuer.token(tenant="other-bank")
    answer = await place.ask(stranger, body=with_(amount_minor=1))
    assert (answer.status, answer.json["code"]) == (403, "other_tenant")
    assert place.refused("other_tenant") == 1
    assert place.decider.batches == []
    assert (await place.ask(issuer.token())).status == 200


@pytest.mark.parametrize("tenant", [None, "", [], {"bank": 1}, 7, ["other"], "bank other"])
async def test_a_tenant_that_is_not_said_is_no_tenant(
    place: Place, issuer: Issuer, tenant: Any
) -> None:
    answer = await place.ask(issuer.token(tenant=tenant))
    assert (answer.status, answer.json["code"]) == (403, "other_tenant")


def infer(*texts: bytes) -> bytes:
    data = [text.decode() for text in texts]
    rows = {"name": "authorizations", "shape": [len(data)], "datatype": "BYTES", "data": data}
    return json.dumps({"inputs": [rows]}).encode()


async def test_rows_of_another_tenant_hold_their_problem(place: Place, issuer: Issuer) -> None:
    rows = infer(with_(), with_(authorization_id="auth-2", tenant="other-bank"))
    answer = await place.ask(issuer.token(), "/v2/models/sluice/infer", body=rows)
    first, second = (json.loads(text) for text in answer.json["outputs"][0]["data"])
    assert (first["outcome"], second["code"]) == ("approve", "other_tenant")
    assert [a.auth.tenant for batch in place.decider.batches for a in batch] == ["bank"]


async def test_rows_of_another_tenant_alone_are_refused(place: Place, issuer: Issuer) -> None:
    rows = infer(with_(tenant="other-bank"))
    answer = await place.ask(issuer.token(), "/v2/models/sluice/infer", body=rows)
    assert (answer.status, answer.json["code"]) == (403, "other_tenant")
    assert place.decider.batches == []


def features() -> bytes:
    rows = {"name": "features", "shape": [1, 3], "datatype": "INT64", "data": [1, 2, 3]}
    return json.dumps({"inputs": [rows]}).encode()


async def test_raw_features_are_scored_only_for_whoever_may_see_scores(
    place: Place, issuer: Issuer
) -> None:
    path = "/v2/models/sluice/infer"
    answer = await place.ask(issuer.token(), path, of=place.admin, body=features())
    assert (answer.status, answer.json["code"]) == (403, "insufficient_scope")
    scored = await place.ask(issuer.token(scope="score"), path, of=place.admin, body=features())
    assert scored.json["outputs"][0]["data"] == [6]
    elsewhere = await place.ask(issuer.token(scope=BOTH), path, body=features())
    assert (elsewhere.status, elsewhere.json["code"]) == (403, "not_on_this_port")


def test_every_path_that_is_served_has_its_scopes(place: Place) -> None:
    """A new one is refused until it stands in the table."""
    assert [path for path in place.api.paths if API.scopes(path) is None] == []
    assert [path for path in place.admin.paths if OPERATORS.scopes(path) is None] == []
    served = place.api.paths | place.admin.paths
    for routes in (API, OPERATORS):
        assert {filled(path) for path in routes.table} - served == set(), "a row for nothing"


async def test_the_score_is_in_the_answer_only_with_its_scope(place: Place, issuer: Issuer) -> None:
    assert "score_ppm" not in (await place.ask(issuer.token())).json
    body = with_(authorization_id="auth-2")
    assert (await place.ask(issuer.token(scope=BOTH), body=body)).json["score_ppm"] == 1_000
    rows = infer(with_(authorization_id="auth-3"))
    answer = await place.ask(issuer.token(), "/v2/models/sluice/infer", body=rows)
    assert "score_ppm" not in json.loads(answer.json["outputs"][0]["data"][0])


@pytest.mark.parametrize("score", [None, 0, 1, 1_000_000])
@pytest.mark.parametrize("text", ["", '"score_ppm":1,', '\\"score_ppm":1,'])
def test_an_answer_without_its_score_is_otherwise_the_same(score: int | None, text: str) -> None:
    """Whatever is said in its texts."""
    said = Answer(
        authorization_id=text, outcome=Outcome.APPROVE, reasons=[text], score_ppm=score,
        degradation_level="D0", degraded=[], release=text, policy=text, decided_at=1,
    )  # fmt: skip
    whole = json.loads(encode(said))
    del whole["score_ppm"]
    assert json.loads(without_score(encode(said))) == whole


async def test_a_path_that_no_scope_names_is_refused_to_everyone(
    place: Place, issuer: Issuer
) -> None:
    for path in ("/v3", "/v2/repository/index", "/v1/authorizations/", "/v2/models/a/b/c/d"):
        assert (await place.ask(None, path)).status == 401, "nobody is told what there is"
        answer = await place.ask(issuer.token(scope="authorize score admin"), path)
        assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_health_and_metrics_need_no_credential(place: Place) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/sluice/ready"):
        assert (await place.ask(None, path, method="GET")).status == 200
        assert (await place.ask(None, path, of=place.admin, method="GET")).status == 200
    assert (await place.ask(None, "/metrics", of=place.admin, method="GET")).status == 200


async def test_two_credentials_in_one_request_are_none(place: Place, issuer: Issuer) -> None:
    also = [("authorization", f"Bearer {issuer.token(tenant='other-bank')}")]
    answer = await place.ask(issuer.token(), also=also)
    assert (answer.status, answer.json["code"]) == (401, "invalid_token")


async def test_a_token_remembered_ends_when_it_expires(issuer: Issuer) -> None:
    now = [time.time()]
    place = Place(issuer, now=lambda: now[0])
    token = issuer.token(exp=int(now[0]) + 100)
    assert (await place.ask(token)).status == 200
    now[0] += 101
    answer = await place.ask(token)
    assert (answer.status, place.refused("expired")) == (401, 1)


async def test_a_key_that_is_withdrawn_ends_what_it_signed(tmp_path: Path) -> None:
    """Also of tokens that are remembered."""
    issuer = Issuer(tmp_path)
    place = Place(issuer)
    token = issuer.token()
    assert (await place.ask(token)).status == 200
    issuer.publish("ec-1")
    assert isinstance(place.access.tokens, JwtTokens)
    await place.access.tokens.read()
    assert (await place.ask(token)).status == 401
    assert (await place.ask(issuer.token(kid="ec-1"))).status == 200


async def test_no_more_tokens_are_remembered_than_the_limit(issuer: Issuer) -> None:
    place = Place(issuer, tokens_max=2)
    for number in range(5):
        token = issuer.token(kid="ec-1", jti=str(number))
        assert (await place.ask(token, "/v2", method="GET")).status == 200
        assert place.access.remembered == min(number + 1, 2)


# ---------------------------------------------------------------- certificates


def clients_file(path: Path, *certificates: str) -> ClientsFile:
    """These certificates may have authorizations of the tenant bank decided."""
    write_clients(path, *certificates)
    return ClientsFile(path)


def write_clients(path: Path, *certificates: str) -> None:
    rows = [
        {"certificate": name, "tenants": ["bank"], "scopes": ["authorize"]} for name in certificates
    ]
    path.write_text(json.dumps({"clients": rows}))  # JSON is YAML


async def with_peer(place: Place, peer: Peer, token: str = "") -> tuple[int, dict[str, Any]]:
    """One authorization over a connection with this certificate: status and body."""
    heard: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    headers = [(b"content-type", b"application/json")]
    if token:
        headers.append((b"authorization", b"Bearer " + token.encode()))
    place.api.authorize(
        headers, with_(), lambda status, _headers, body: heard.set_result((status, body)), peer
    )
    status, body = await heard
    return status, json.loads(body)


async def test_a_certificate_that_is_listed_is_its_client(issuer: Issuer, tmp_path: Path) -> None:
    clients = clients_file(tmp_path / "clients.yaml", "URI:spiffe://bank/a")
    place = Place(issuer, clients=clients)
    peer = Peer(["URI:spiffe://bank/a", "CN:a"], "thumb", time.time() + 60)
    assert (await with_peer(place, peer))[0] == 200


async def test_a_certificate_that_nobody_lists_or_that_ended_is_nobody(
    issuer: Issuer, tmp_path: Path
) -> None:
    clients = clients_file(tmp_path / "clients.yaml", "URI:spiffe://bank/a")
    place = Place(issuer, clients=clients)
    stranger = Peer(["CN:URI:spiffe://bank/a"], "thumb", time.time() + 60)
    assert (await with_peer(place, stranger))[0] == 401
    late = Peer(["URI:spiffe://bank/a"], "thumb", time.time() - 1)
    assert (await with_peer(place, late))[0] == 401
    assert (place.refused("unknown_certificate"), place.refused("expired")) == (1, 1)


async def test_a_client_struck_off_the_list_is_nobody_on_an_open_connection(
    issuer: Issuer, tmp_path: Path
) -> None:
    clients = clients_file(tmp_path / "clients.yaml", "CN:a")
    place = Place(issuer, clients=clients)
    peer = Peer(["CN:a"], "thumb", time.time() + 60)
    assert (await with_peer(place, peer))[0] == 200
    write_clients(tmp_path / "clients.yaml", "CN:b")
    assert clients.poll()
    assert (await with_peer(place, peer))[0] == 401


async def test_a_token_bound_to_a_certificate_comes_with_it_or_not_at_all(issuer: Issuer) -> None:
    place = Place(issuer)
    bound = issuer.token(cnf={"x5t#S256": "thumb"})
    its_own, another = (Peer(["CN:a"], thumb, time.time() + 60) for thumb in ("thumb", "other"))
    assert (await with_peer(place, its_own, bound))[0] == 200
    assert (await with_peer(place, another, bound))[0] == 401
    assert (await place.ask(bound)).status == 401
    assert place.refused("not_bound") == 2


# ---------------------------------------------------------------- limits


async def test_a_client_that_sends_too_fast_is_told_when_to_come_again(issuer: Issuer) -> None:
    now = [0.0]
    place = Place(issuer, limits=Limits(per_s=2, burst=3), clock=lambda: now[0])
    tokens = [issuer.token(jti=str(i)) for i in range(2)]
    for number in range(3):  # two tokens of one client share its limit
        body = with_(authorization_id=f"auth-{number}")
        assert (await place.ask(tokens[number % 2], body=body)).status == 200
    answer = await place.ask(tokens[0])
    assert (answer.status, answer.json["code"]) == (429, "too_many_requests")
    assert answer.headers["retry-after"] == "1"
    assert (await place.ask(issuer.token(sub="another"))).status == 200, "others are not held up"
    now[0] += 0.5
    assert (await place.ask(tokens[0])).status == 200
    assert place.refused("rate") == 1


async def test_rows_of_one_request_count_each(issuer: Issuer) -> None:
    now = [0.0]
    place = Place(issuer, limits=Limits(per_s=1, burst=2), clock=lambda: now[0])
    rows = infer(*(with_(authorization_id=f"auth-{i}") for i in range(6)))
    token = issuer.token()
    assert (await place.ask(token, "/v2/models/sluice/infer", body=rows)).status == 200
    answer = await place.ask(token)
    assert (answer.status, answer.headers["retry-after"]) == (429, "5")


async def test_a_client_has_so_many_requests_in_flight_and_no_more(issuer: Issuer) -> None:
    place = Place(issuer, limits=Limits(in_flight=2))
    place.decider.gate = asyncio.Event()
    token = issuer.token()
    waiting = [
        asyncio.create_task(place.ask(token, body=with_(authorization_id=f"auth-{i}")))
        for i in range(2)
    ]
    while not place.decider.batches:
        await asyncio.sleep(0)
    answer = await place.ask(token)
    assert (answer.status, answer.json["code"]) == (429, "too_many_requests")
    place.decider.gate.set()
    assert [a.status for a in await asyncio.gather(*waiting)] == [200, 200]
    assert (await place.ask(token)).status == 200


async def test_whatever_becomes_of_a_request_its_place_is_given_back(issuer: Issuer) -> None:
    place = Place(issuer, limits=Limits(in_flight=1))
    token = issuer.token(scope="authorize score admin")
    for port, path in (*GUARDED, *GUARDED):
        of = place.admin if port == "admin" else place.api
        for body in (b"", with_(), infer(with_()), features(), b"x" * 20_000):
            await place.ask(token, filled(path), of=of, body=body)
    assert place.refused("in_flight") == 0
    assert place.decider.batches
