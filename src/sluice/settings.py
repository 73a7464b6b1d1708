"""The only reader of environment and YAML. Unknown keys refuse to start.

Each field's comment is its documentation: ``sluice reference`` writes them all to
docs/reference/settings.md. A value comes from the default, then ``sluice.yaml`` (or the file that
SLUICE_CONFIG names), then ``SLUICE_<SECTION>_<KEY>``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from sluice.errors import Misconfigured
from sluice.yaml_files import decode

PREFIX = "SLUICE_"
CONFIG_VARIABLE = "SLUICE_CONFIG"
CONFIG_FILE = Path("sluice.yaml")
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "SLUICE_KILL_AT"})
"""Variables of this prefix that are not settings."""
MASK = "********"

_LINK = re.compile(
    r"(?P<url>PORT(_[0-9]+_(TCP|UDP|SCTP))?)|(?P<host>SERVICE_HOST)|"
    r"(?P<number>SERVICE_PORT(_[A-Z0-9_]+)?)|"
    r"PORT_[0-9]+_(TCP|UDP|SCTP)_((?P<address>ADDR)|(?P<port>PORT)|(?P<protocol>PROTO))"
)
"""What follows a Service's name in a variable that tells of it."""
_LINK_URL = re.compile(r"(?:tcp|udp|sctp)://(?P<address>[^/]+):[0-9]{1,5}")


def _says(text: str, **bounds: Any) -> Meta:
    return Meta(description=text, **bounds)


class Kafka(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The broker."""

    bootstrap: Annotated[str, _says("Brokers, host:port, comma separated.")] = "localhost:9092"
    topic_prefix: Annotated[str, _says("Put before every topic and group name.")] = ""
    security_protocol: Annotated[str, _says("PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.")] = (
        "PLAINTEXT"
    )
    sasl_mechanism: Annotated[str, _says("PLAIN, SCRAM-SHA-512, OAUTHBEARER ...")] = ""
    sasl_username: Annotated[str, _says("User of SASL PLAIN or SCRAM.")] = ""
    sasl_password: Annotated[str, _says("Password of SASL PLAIN or SCRAM.")] = ""
    ca_file: Annotated[str, _says("CA bundle for TLS; empty is the system's.")] = ""
    cert_file: Annotated[
        str, _says("Our certificate, PEM, where the brokers ask for one (mutual TLS).")
    ] = ""
    key_file: Annotated[str, _says("Its private key, PEM.")] = ""
    key_password: Annotated[str, _says("Password of that key, if it is encrypted.")] = ""
    session_s: Annotated[
        int,
        _says(
            "A consumer silent for so long is dead, and its partitions move; longer than brokers "
            "take to replace a dead one.",
            ge=6,
            le=60,
        ),
    ] = 20

    def extra(self) -> dict[str, str]:
        """What librdkafka needs besides the brokers."""
        given = {
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": self.sasl_password,
            "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.cert_file,
            "ssl.key.location": self.key_file,
            "ssl.key.password": self.key_password,
        }
        return {key: value for key, value in given.items() if value and value != "PLAINTEXT"}


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The online store."""

    ca_file: Annotated[str, _says("CA bundle for rediss://; empty is the system's.")] = ""
    cert_file: Annotated[
        str, _says("Our certificate, PEM, where the store asks for one (mutual TLS).")
    ] = ""
    key_file: Annotated[str, _says("Its private key, PEM.")] = ""

    url: Annotated[
        str,
        _says(
            "redis://, rediss:// or valkey://, with +cluster or +sentinel behind the scheme for "
            "several addresses; may hold a password."
        ),
    ] = "redis://localhost:6379/0"
    budget_ms: Annotated[
        int, _says("Longest a read may take; past it the views are missing.", ge=1, le=1000)
    ] = 10
    batch_budget_ms: Annotated[
        int, _says("The same for a micro-batch of the stream processor.", ge=1, le=10_000)
    ] = 1000
    identify_budget_ms: Annotated[
        int,
        _says(
            "Longest a look-up of ids alone may take, after a read that was too late or failed; "
            "past it the policy's `unidentified` decides.",
            ge=1,
            le=10_000,
        ),
    ] = 25
    answer_ttl_s: Annotated[
        int, _says("How long an id's answer is remembered: about 400 bytes each.", ge=1)
    ] = 3600
    in_progress_ttl_s: Annotated[
        int,
        _says(
            "After this an id that was never answered may be decided again; longer than a restart "
            "of the broker.",
            ge=1,
            le=600,
        ),
    ] = 30


class DeciderSettings(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename=None
):
    """Both entrypoints."""

    host: Annotated[str, _says("Address the sync API listens on.")] = "0.0.0.0"
    port: Annotated[int, _says("Port of the sync API.", ge=0, le=65_535)] = 8080
    cert_file: Annotated[
        str, _says("Certificate chain of the sync API, PEM; followed. Empty is plain HTTP.")
    ] = ""
    key_file: Annotated[str, _says("Its private key, PEM, not encrypted.")] = ""
    client_ca_file: Annotated[
        str,
        _says("CA bundle: every client must show a certificate of it (mutual TLS); followed."),
    ] = ""
    model_name: Annotated[str, _says("Name in the Open Inference Protocol.")] = "sluice"
    release_dir: Annotated[
        str, _says("Folder of the release to serve, or a URL of one or of several; polled.")
    ] = "models/releases/current"
    policy_dir: Annotated[str, _says("Folder of the policy pack; polled.")] = "policies/default"
    trust_dir: Annotated[str, _says("Public keys that may sign releases.")] = "policies/trust"
    deadline_ms: Annotated[
        int, _says("Receipt to answer, unless the caller gives less.", ge=5, le=1000)
    ] = 50
    record_budget_ms: Annotated[
        int, _says("Longest wait for the record to be durable; then 503.", ge=1, le=60_000)
    ] = 1000
    in_flight_max: Annotated[
        int,
        _says(
            "Requests inside the sync API; beyond it 503, no queue. Under overload fewer are let "
            "in: as many as can be decided in time.",
            ge=1,
        ),
    ] = 256
    priority: Annotated[
        str,
        _says(
            "Who is refused last under overload: the amount in the reference currency times these "
            "weights, channel.NAME=N or tenant.NAME=N, comma separated; 1 where none is given."
        ),
    ] = ""
    connections_per_address: Annotated[
        int,
        _says(
            "Connections that one address may have open at the sync API, of 4096; 0 is no bound, "
            "for a proxy that is the only address.",
            ge=0,
        ),
    ] = 1024
    answers_max: Annotated[
        int,
        _says(
            "Answers that a replica remembers itself, asked before the store: 900 bytes each.",
            ge=1_000,
            le=10_000_000,
        ),
    ] = 50_000
    answers_age_s: Annotated[
        int, _says("Older ones are forgotten, however few there are.", ge=1, le=86_400)
    ] = 900
    drain_s: Annotated[
        int, _says("After SIGTERM: not ready, still answering, this long.", ge=0, le=600)
    ] = 5
    max_event_age_s: Annotated[
        int, _says("Older authorizations are refused; raise it to publish history.", ge=1)
    ] = 35 * 86_400
    max_event_ahead_s: Annotated[
        int, _says("Authorizations further ahead of our clock are refused.", ge=0)
    ] = 300
    batch_max: Annotated[
        int, _says("Authorizations of one micro-batch of the stream processor.", ge=1, le=5000)
    ] = 500
    reload_s: Annotated[
        int, _says("How often release and policy are looked at for changes.", ge=1, le=3600)
    ] = 2
    release_wait_s: Annotated[
        int,
        _says(
            "How long a start waits for a release where none lies. Then the sync API ends with "
            "exit status 1, and the stream processor decides by rules. What lies there and is "
            "refused is not waited for.",
            ge=0,
            le=3600,
        ),
    ] = 60
    grammars: Annotated[
        dict[str, str],
        _says(
            "How tenants make their ids: `tenant.field` or `*.field` to characters, classes and "
            "counts, `tok_[0-9a-f]{32}`. What does not follow is refused; `sluice.yaml` only."
        ),
    ] = {}
    release_approvals: Annotated[
        int,
        _says(
            "Keys that must have approved the activation of a release; 0 needs none.", ge=0, le=16
        ),
    ] = 0
    policy_approvals: Annotated[
        int, _says("The same of a policy. Two is dual control.", ge=0, le=16)
    ] = 0
    let_through_key: Annotated[
        str,
        _says(
            "Secret, 16 to 64 bytes and the same at every decider, by which a policy's "
            "`let_through` draws; such a policy is refused without it."
        ),
    ] = ""
    drop_untrusted: Annotated[
        bool,
        _says(
            "Whether a release or policy whose key was withdrawn stops deciding: the one before "
            "it comes back, or no model; without a policy before it, it is only named."
        ),
    ] = False
    epoch_file: Annotated[
        str,
        _says(
            "File that keeps the highest epochs over a restart, out of reach of whoever brings "
            "releases; empty remembers them while the process runs."
        ),
    ] = ""
    dry_run_rows: Annotated[
        int,
        _says(
            "Last decisions that a new release or policy is tried on, 1.5 kB each; 0 tries none.",
            ge=0,
            le=100_000,
        ),
    ] = 2000
    dry_run_shift_ppm: Annotated[
        int,
        _says(
            "By how much it may move the share of an outcome, besides half of that share.",
            ge=0,
            le=1_000_000,
        ),
    ] = 5_000
    breaker_decline_ppm: Annotated[
        int,
        _says(
            "Share of a tenant's decisions that one rule, or the model, may decline before the "
            "breaker trips; 1000000 never trips.",
            ge=1,
            le=1_000_000,
        ),
    ] = 300_000
    breaker_rows: Annotated[
        int, _says("Decisions of a tenant that it is a share of.", ge=100, le=1_000_000)
    ] = 2000


class AccessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may ask the sync API, and the labeller."""

    mode: Annotated[
        Literal["none", "required"],
        _says("`required`: each request has a credential; `none` is for one machine."),
    ] = "none"
    issuer: Annotated[str, _says("`iss` of bearer tokens; empty takes none.")] = ""
    audience: Annotated[str, _says("`aud` that a token must hold.")] = ""
    keys: Annotated[str, _says("The issuer's JSON Web Key Set: a file, or an https URL.")] = ""
    keys_ca_file: Annotated[
        str, _says("CA bundle for that URL's server; empty is the system's.")
    ] = ""
    keys_refresh_s: Annotated[int, _says("How often the keys are read again.", ge=10, le=3600)] = (
        300
    )
    algorithms: Annotated[
        str, _says("Signatures taken, comma separated; only asymmetric ones.")
    ] = "RS256,PS256,ES256"
    leeway_s: Annotated[
        int, _says("How far the issuer's clock may be from ours.", ge=0, le=300)
    ] = 30
    tenant_claim: Annotated[str, _says("Claim with the tenant, or a list of them.")] = "tenant"
    scope_claim: Annotated[
        str, _says("Claim with the scopes: `authorize`, `score`, `label`, `admin`.")
    ] = "scope"
    clients_file: Annotated[
        str, _says("Tenants and scopes of client certificates, YAML; followed.")
    ] = ""
    rate_per_s: Annotated[
        int, _says("Authorizations a second of one client, per replica; 0 is any.", ge=0)
    ] = 1000
    burst: Annotated[int, _says("Of them at once, after a pause.", ge=1)] = 1000
    in_flight_max: Annotated[
        int, _says("Requests of one client in flight, per replica; 0 is any.", ge=0)
    ] = 128


class FeaturizerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The featurizer."""

    batch_max: Annotated[int, _says("Records of one batch.", ge=1, le=20_000)] = 2000


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The object storage of what has a URL: archive, training sets, releases. The compliance log's
    copies have their own place, ``auditor.copy_*``: better another owner's."""

    endpoint: Annotated[str, _says("URL of a server that speaks S3; empty is AWS.")] = ""
    region: Annotated[str, _says("Its region; empty is as the environment says.")] = ""
    ca_file: Annotated[
        str, _says("Certificates that its own may lead to, beside the system's; PEM.")
    ] = ""


class ArchiverSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The archiver."""

    root: Annotated[
        str,
        _says(
            "Where the archive is: a folder, or a URL: `s3://bucket/prefix`, `gs://`, `abfs://`."
        ),
    ] = "var/archive"
    roll_s: Annotated[int, _says("Longest a record waits for its file.", ge=1, le=3600)] = 60


class LabellerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The labeller. Who may send it reports, ``access`` says."""

    host: Annotated[str, _says("Address it listens on.")] = "0.0.0.0"
    port: Annotated[int, _says("Its port.", ge=0, le=65_535)] = 8081
    cert_file: Annotated[
        str, _says("Its certificate chain, PEM; followed. Empty is plain HTTP.")
    ] = ""
    key_file: Annotated[str, _says("Its private key, PEM, not encrypted.")] = ""
    client_ca_file: Annotated[
        str,
        _says("CA bundle: every client must show a certificate of it (mutual TLS); followed."),
    ] = ""
    topic: Annotated[
        str,
        _says("Topic of reports that it reads besides, as its owner calls it; empty reads none."),
    ] = ""
    look_up: Annotated[
        bool,
        _says(
            "Whether what a report leaves out of its authorization is looked up in the archive "
            "under `archiver.root`."
        ),
    ] = False
    maturity_s: Annotated[int, _says("How often it works those shares out.", ge=60, le=86_400)] = (
        3600
    )


class AuditorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The auditor, which writes the compliance log. A log is named environment/cell/shard."""

    root: Annotated[
        str,
        _says(
            "Folder of the logs: `<root>/<shard>` is for verifiers, `<root>/<shard>.ahead` and "
            "`<root>/<shard>.resume` are the auditor's own."
        ),
    ] = "var/compliance-log"
    key_file: Annotated[
        str, _says("Private key that signs checkpoints, Ed25519, PEM; `sluice log keygen`.")
    ] = ""
    retired_keys_file: Annotated[
        str,
        _says(
            "Verifier keys that signed this log before, one a line; the log then tells of the "
            "rotation. Empty: it never had another."
        ),
    ] = ""
    make_keys: Annotated[
        bool,
        _says(
            "Make that key and the keystore at the first start, where they are not there and no "
            "checkpoint of the log ever was."
        ),
    ] = False
    environment: Annotated[str, _says("First part of the name of its logs, like bank.example.")] = (
        "local"
    )
    cell: Annotated[str, _says("Second part: the cell's name. Never changed.")] = "cell"
    shard: Annotated[
        int,
        _says(
            "Third part: it reads the partitions whose number leaves this when divided by "
            "`auditor.shards`.",
            ge=0,
            le=63,
        ),
    ] = 0
    shards: Annotated[
        int,
        _says("Logs of the cell; another number takes new names for all of them.", ge=1, le=64),
    ] = 1
    witnesses_file: Annotated[
        str,
        _says(
            "Witnesses that each checkpoint is shown to: a line for each, its key, a blank, and "
            "its URL without a path. Empty asks none."
        ),
    ] = ""
    ca_file: Annotated[
        str,
        _says("CA bundle for https to witnesses, bucket and time stamps; empty is the system's."),
    ] = ""
    copy_bucket: Annotated[
        str,
        _says(
            "Bucket that the log is copied to, of S3 or what speaks it. Credentials are where "
            "AWS's clients look for them. Empty copies nothing."
        ),
    ] = ""
    copy_prefix: Annotated[
        str, _says("Before the log's name in the bucket, with a slash at its end.")
    ] = ""
    copy_endpoint: Annotated[str, _says("URL of the object storage; empty is AWS.")] = ""
    copy_region: Annotated[str, _says("Its region; empty is as the environment says.")] = ""
    copy_every_s: Annotated[
        int,
        _says(
            "From one copy to the next. Each writes three to five files of what is not whole yet.",
            ge=1,
            le=3600,
        ),
    ] = 10
    copy_retain_days: Annotated[
        int,
        _says(
            "For so many days nobody can delete whole tiles and checkpoints of the copy (Object "
            "Lock, compliance mode); 0 leaves it to the bucket.",
            ge=0,
            le=36_500,
        ),
    ] = 0
    time_stamp_url: Annotated[
        str,
        _says("Authority that stamps a checkpoint each hour (RFC 3161), a URL; empty asks none."),
    ] = ""
    time_stamp_roots_file: Annotated[
        str, _says("Root certificates that its stamps must lead to, PEM.")
    ] = ""


class WitnessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A witness of compliance logs. It needs no broker."""

    host: Annotated[str, _says("Address it listens on.")] = "0.0.0.0"
    port: Annotated[int, _says("Its port; plain HTTP.", ge=0, le=65_535)] = 8082
    name: Annotated[
        str, _says("Its name in cosignatures, like bank.example/witness-1; never another one's.")
    ] = ""
    key_file: Annotated[
        str, _says("Its private key, Ed25519, PEM; `sluice log keygen` makes one.")
    ] = ""
    logs_file: Annotated[
        str, _says("Keys of the logs that it cosigns, one a line as verifiers read them.")
    ] = ""
    state_dir: Annotated[
        str, _says("Folder of what it cosigned last. With it the witness loses its memory.")
    ] = "var/witness"


class FeastSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The feature repository. Feast's own files (`feature_repo/*.yaml`) read store and registry."""

    offline: Annotated[
        Literal["file", "spark", "snowflake", "bigquery"],
        _says("What the feature log is to Feast; DuckDB reads `file`."),
    ] = "file"
    log: Annotated[
        str,
        _says(
            "The feature log: a folder of the project or s3://, DATABASE.SCHEMA of "
            "Snowflake, project.dataset of BigQuery."
        ),
    ] = "var/feature-log"
    store: Annotated[
        str, _says("Online store as Feast writes it: host:port,ssl=true,password=...")
    ] = "127.0.0.1:6379"
    registry: Annotated[str, _says("SQL registry, an SQLAlchemy URL; may hold a password.")] = ""


class ConsistencySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The consistency check. It reads the archive under ``archiver.root``."""

    sample_ppm: Annotated[
        int, _says("Share of the decisions that are recomputed, in millionths.", ge=1, le=1_000_000)
    ] = 10_000
    every_s: Annotated[int, _says("From one round to the next.", ge=1, le=3600)] = 60
    settle_s: Annotated[
        int,
        _says("Age from which a decision is looked at; twice ``archiver.roll_s`` or more.", ge=0),
    ] = 180
    lookback_s: Annotated[
        int, _says("After a start, decisions of so long before it are looked at again.", ge=0)
    ] = 3600


class KeystoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keys of the compliance log's sealed parts. The auditor and ``sluice log`` use it."""

    path: Annotated[str, _says("The keystore, one file.")] = "var/keystore/keys.sqlite"
    roots: Annotated[
        str, _says("Root keys, one small file, on a volume that no backup or snapshot holds.")
    ] = "var/keystore-roots/roots.json"
    wrapper: Annotated[
        str,
        _says(
            "What wraps the root keys: file:PATH of 32 bytes in hexadecimal digits; kms:KEY of AWS "
            "KMS, an ARN, an id or alias/NAME; empty wraps them with nothing."
        ),
    ] = ""
    copies: Annotated[
        str,
        _says(
            "Folder on another volume to which a copy of the keystore goes before an erasure is "
            "final; empty makes none."
        ),
    ] = ""
    grants: Annotated[
        str, _says("Public keys that may grant that a record is opened (`sluice log open`).")
    ] = "policies/trust"
    keep_quarters: Annotated[
        int,
        _says(
            "Quarters before this one whose keys stay when `sluice log keys expire` is run.",
            ge=1,
            le=80,
        ),
    ] = 21
    duties: Annotated[
        str,
        _says(
            "Duties that bind you, comma separated: ai_act, pci_dss, psd2, chargebacks, reg_b, "
            "nydfs, aml. Fewer `keystore.keep_quarters` than they ask for are refused. Empty names "
            "none."
        ),
    ] = ""


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every service."""

    region: Annotated[
        str,
        _says(
            "The region that this installation, a cell, is for. An authorization of another is "
            "refused (`other_region`). Empty takes any."
        ),
        Meta(pattern=r"^([a-z0-9-]{1,32})?$"),
    ] = ""
    replica: Annotated[
        str, _says("Name of this replica, the same after a restart; empty is the host name.")
    ] = ""
    image_digest: Annotated[
        str,
        _says("Digest of the container's image, for the records; empty where nobody pins it."),
        Meta(pattern=r"^(sha256:[0-9a-f]{64})?$"),
    ] = ""
    admin_host: Annotated[str, _says("Address the admin port listens on.")] = "0.0.0.0"
    admin_port: Annotated[
        int,
        _says(
            "Port of /metrics and /v2/health/* of every service, and of scores at the sync API: "
            "for operators, not for those who send authorizations. 0 is none.",
            ge=0,
            le=65_535,
        ),
    ] = 9090
    memory_max_mb: Annotated[
        int,
        _says(
            "Most memory of a service, in MB of 2^20 bytes: data, stacks and arenas of its "
            "threads, no mapped files. Where a container's limit (its control group's) leaves "
            "less, nine tenths of that. An allocation past it fails: the request is refused with "
            "503 or the process ends, and the machine lives. 0 is no limit.",
            ge=0,
        ),
    ] = 4096
    log_level: Annotated[str, _says("DEBUG, INFO, WARNING or ERROR.")] = "INFO"
    log_sample_ppm: Annotated[
        int,
        _says(
            "Share of the usual authorizations with a line in the log, in millionths, by the hash "
            "of the id. Refusals (but those under overload), declines and incomplete decisions "
            "always have one.",
            ge=0,
            le=1_000_000,
        ),
    ] = 1_000_000
    log_id_key: Annotated[
        str,
        _says(
            "Secret by which an id becomes the name it has in the log. Empty: one made at each "
            "start, so that nobody finds an id's lines."
        ),
    ] = ""
    log_lines_per_s: Annotated[
        int,
        _says(
            "Of those lines at most so many a second, about 500 bytes each; of more a smaller "
            "share, which stands in the line.",
            ge=1,
            le=100_000,
        ),
    ] = 20

    def name(self) -> str:
        """The replica's name: a StatefulSet's pod name stays, so transactions are fenced."""
        return self.replica or socket.gethostname()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of them, by section."""

    kafka: Kafka = Kafka()
    store: Store = Store()
    decider: DeciderSettings = DeciderSettings()
    access: AccessSettings = AccessSettings()
    featurizer: FeaturizerSettings = FeaturizerSettings()
    storage: StorageSettings = StorageSettings()
    archiver: ArchiverSettings = ArchiverSettings()
    labeller: LabellerSettings = LabellerSettings()
    auditor: AuditorSettings = AuditorSettings()
    witness: WitnessSettings = WitnessSettings()
    feast: FeastSettings = FeastSettings()
    consistency: ConsistencySettings = ConsistencySettings()
    keystore: KeystoreSettings = KeystoreSettings()
    service: Service = Service()


class Setting(msgspec.Struct, frozen=True):
    """One value, where it came from, and what it means. value is masked if it is secret."""

    key: str
    value: str
    source: str
    says: str


def load(
    environ: Mapping[str, str] | None = None, path: Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """Read the settings. Returns them and the source of each key.

    Raises Misconfigured naming the key or variable, never its value.
    """
    environ = os.environ if environ is None else environ
    path = path or Path(environ.get(CONFIG_VARIABLE, CONFIG_FILE))
    sources: dict[str, str] = {}
    tree = _from_file(path, required=CONFIG_VARIABLE in environ, sources=sources)
    links = service_links(environ)
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES or name in links:
            continue
        section, key = _split(name)
        tree.setdefault(section, {})[key] = value
        sources[f"{section}.{key}"] = name
    try:
        return msgspec.convert(tree, Settings, strict=False), sources
    except msgspec.ValidationError as exc:
        raise Misconfigured(
            str(exc), where=str(path), fix="docs/reference/settings.md lists every key"
        ) from None


def service_links(environ: Mapping[str, str]) -> frozenset[str]:
    """Names of the variables by which Kubernetes tells a pod of the namespace's Services.

    A Service ``sluice-x`` puts ``SLUICE_X_PORT=tcp://10.0.0.1:80`` and its like into every pod. A
    name counts if it has the shape of such a variable, its value is what that variable holds, and
    a Service of this name is told of by a URL, as each is: a misspelt setting has none beside it.
    The name of a setting counts only with a URL for its value.

    >>> sorted(service_links({"SLUICE_X_PORT": "tcp://10.0.0.1:80", "SLUICE_X_SERVICE_PORT": "80",
    ...                       "SLUICE_STORE_SERVICE_PORT": "80", "SLUICE_DECIDER_PORT": "80"}))
    ['SLUICE_X_PORT', 'SLUICE_X_SERVICE_PORT']
    """
    read = {
        name: set(_readings(name, value))
        for name, value in environ.items()
        if name.startswith(PREFIX)
    }
    told = {service for readings in read.values() for service, what in readings if what == "url"}
    return frozenset(
        name
        for name, readings in read.items()
        if any(
            service in told and (what == "url" or not _is_setting(name))
            for service, what in readings
        )
    )


def settings_told_as_links(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables with a setting's name that tell of a Service, so that the setting is not read.

    >>> settings_told_as_links({"SLUICE_DECIDER_PORT": "tcp://10.0.0.1:80"})
    ['SLUICE_DECIDER_PORT']
    """
    links = service_links(os.environ if environ is None else environ)
    return sorted(name for name in links if _is_setting(name))


def _readings(name: str, value: str) -> Iterator[tuple[str, str]]:
    """Each Service that this variable may tell of, and what it would tell."""
    for at in range(len(PREFIX) - 1, len(name)):
        match = _LINK.fullmatch(name, at + 1) if name[at] == "_" else None
        if match is not None:
            what = next(kind for kind, text in match.groupdict().items() if text)
            if _holds(what, value):
                yield name[:at], what


def _holds(what: str, value: str) -> bool:
    """Whether Kubernetes would give a variable of this kind such a value."""
    if what == "url":
        url = _LINK_URL.fullmatch(value)
        return url is not None and _holds("host", url["address"].strip("[]"))
    if what in ("host", "address"):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            return False
        return True
    if what == "protocol":
        return value in ("tcp", "udp", "sctp")
    return value.isascii() and value.isdigit() and int(value) <= 65_535


def describe(settings: Settings, sources: Mapping[str, str]) -> list[Setting]:
    """Every setting with value and source, secrets masked."""
    rows = []
    for section in Settings.__struct_fields__:
        part = getattr(settings, section)
        hints = get_type_hints(type(part), include_extras=True)
        for key in part.__struct_fields__:
            value = str(getattr(part, key))
            if value and _is_secret(key, value):
                value = MASK
            name = f"{section}.{key}"
            rows.append(
                Setting(
                    name,
                    value,
                    sources.get(name, "default"),
                    hints[key].__metadata__[0].description,
                )
            )
    return rows


def digest_of(settings: Settings) -> str:
    """SHA-256 of all settings, secrets masked: two processes with the same one are set up alike,
    whatever image they run."""
    rows = [row for row in describe(settings, {}) if row.key != "service.image_digest"]
    text = "\n".join(f"{row.key}={row.value}" for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_secret(key: str, value: str) -> bool:
    return (
        "password" in key
        or key.endswith("_key")
        or "password=" in value
        or ("://" in value and "@" in value)
    )


def _from_file(path: Path, *, required: bool, sources: dict[str, str]) -> dict[str, dict[str, Any]]:
    if not path.exists():
        if required:
            raise Misconfigured(
                f"{CONFIG_VARIABLE} names a file that is not there", where=str(path)
            )
        return {}
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise Misconfigured(f"cannot read it: {exc.strerror}", where=str(path)) from exc
    tree = decode(raw, str(path)) or {}
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise Misconfigured("expected sections with keys", where=str(path))
    for section, part in tree.items():
        sources |= {f"{section}.{key}": str(path) for key in part}
    return tree


def _is_setting(name: str) -> bool:
    section, _, key = name.removeprefix(PREFIX).lower().partition("_")
    kind = get_type_hints(Settings).get(section)
    return kind is not None and key in kind.__struct_fields__


def _split(name: str) -> tuple[str, str]:
    section, _, key = name.removeprefix(PREFIX).lower().partition("_")
    if not _is_setting(name):
        raise Misconfigured(
            f"{name} is no setting", where="environment", fix="sluice config lists every key"
        )
    return section, key
