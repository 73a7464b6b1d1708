"""Look at, check and sign releases of a model.

sluice release pack DIR --dataset SET --run RUN    # a candidate's release
sluice release pack DIR --dataset SET --model FILE # of any ONNX file
sluice release pack DIR --description FILE # write manifest.json
sluice release reference DIR --dataset SET # whom it was made for
sluice release show DIR                    # what it is, measured to do what
sluice release verify DIR --trust KEYS     # signature, digests, warm-up
sluice release keygen --out FILE           # FILE (secret) and FILE.pub
sluice release sign DIR --key FILE         # write manifest.sig

sluice release activate DIR --key FILE --who NAME --why TEXT
sluice release approve DIR --key FILE      # one more signature

activate signs that a release may decide; rollback (an older one, on purpose), force (without the
dry run) and reset (the breaker's trips are over) do too, with the same options
(docs/reference/activation.md).

DIR and SET may be URLs, like s3://bucket/prefix.

Beside others, DIR is a folder of releases (docs/reference/rollout.md; waiting for the pods of a
Helm release is another thing: sluice rollout):

sluice release list DIR                    # what each release is
sluice release diff A B                    # two, by their manifests
sluice release shadow DIR NAME ...         # scores, and never answers
sluice release canary DIR NAME ...         # answers a share of the cards
sluice release promote DIR NAME ...        # the canary becomes the champion
sluice release rollback DIR ...            # one step back
sluice release held DIR NAME --as ROLE     # whether it is that still
sluice release withdraw DIR NAME ...       # out, whatever it is
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from sluice.bootstrap import verbs
from sluice.cli.acts import activation_line, add_acts
from sluice.cli.output import say
from sluice.cli.parameters import CHANGED, COPY, FOLDER
from sluice.cli.text import help_of
from sluice.domain.activation import FIRST_SHARE_MAX_PPM, Activation
from sluice.domain.clock import to_datetime
from sluice.domain.records.rollout import Role
from sluice.settings import load

DEFAULT_TRUST = Path("policies/trust")
DEFAULT_POLICY = Path("policies/default")

_folder = click.argument("folder", type=COPY, metavar="DIR")
_changed = click.argument("folder", type=CHANGED, metavar="DIR")


@click.group(help=help_of(__doc__))
def command() -> None:
    """Eighteen actions. Errors are ours: 1 for a release that is not whole, 78 for what cannot be
    read."""


@command.command("pack", help=help_of(
    """Write a release to a new folder, from a run's candidate or from any ONNX file; it is signed
    next.

    With --certificate the release holds what the gate let pass, the eight-bit variant too, and
    nothing else. With --judgement the card has its figures, with --elsewhere those by other rows.
    With --description alone, manifest.json is written beside the model.onnx and card.md of DIR.
    """
))  # fmt: skip
@_changed
@click.option("--description", type=FOLDER, metavar="FILE", help="YAML: docs/reference/release.md.")
@click.option("--dataset", type=COPY, metavar="SET", help="Training set that it was made from.")
@click.option("--run", type=FOLDER, metavar="RUN", help="Of training.")
@click.option(
    "--candidate", default="", metavar="NAME", help="Of RUN (default: the certificate's; student)."
)
@click.option("--model", type=FOLDER, metavar="FILE", help="ONNX, of any make.")
@click.option("--int8", type=FOLDER, metavar="FILE", help="The same in eight bits.")
@click.option(
    "--columns", default="", metavar="A,B,...", help="Of a graph that does not name its columns."
)
@click.option("--kind", default="", metavar="TEXT", help="What the model is, in words.")
@click.option("--id", "release", default="", metavar="ID", help="Default: candidate, day, digest.")
@click.option("--certificate", type=FOLDER, metavar="FILE", help="The gate's certificate.json.")
@click.option("--judgement", type=FOLDER, metavar="FILE", help="By its own training set.")
@click.option(
    "--elsewhere", type=FOLDER, multiple=True, metavar="FILE", help="A judgement by other rows."
)
@click.option("--use", type=FOLDER, metavar="FILE", help="Markdown: what it is for, and what not.")
@click.option("--limits", type=FOLDER, metavar="FILE", help="Markdown: further known limits.")
@click.option("--approval", multiple=True, metavar="TEXT", help="Who approved it, when.")
def pack(folder: Path, description: Path | None, dataset: Path | None, **given: Any) -> int:
    """Returns 0. Raises Rejected, Corrupt, Misconfigured."""
    if (description is None) == (dataset is None):
        raise click.UsageError("either --dataset SET or --description FILE")
    if dataset is None:
        assert description is not None
        manifest = verbs.pack_release(folder, description)
    else:
        from sluice.bootstrap.packing import Given, pack_model, read_about  # noqa: PLC0415

        manifest = pack_model(
            folder,
            dataset,
            Given(
                given["run"],
                given["candidate"],
                given["model"],
                given["int8"],
                [name.strip() for name in given["columns"].split(",") if name.strip()],
                given["kind"],
            ),
            release=given["release"],
            judgement=given["judgement"],
            elsewhere=given["elsewhere"],
            certificate=given["certificate"],
            about=read_about(given["use"], given["limits"], given["approval"]),
        )
    say(
        f"{manifest.id}: {len(manifest.features)} features, {len(manifest.warm_up)} warm-up rows; "
        f"not signed: sluice release sign DIR --key FILE"
    )
    return 0


@command.command("reference", help="Add the population that a packed release was made for.")
@_changed
@click.option(
    "--dataset",
    type=COPY,
    required=True,
    metavar="DIR",
    help="A training set: sluice dataset build.",
)
@click.option(
    "--split",
    default="validation",
    show_default=True,
    metavar="NAME",
    help="Which of its splits: one that the model was not fitted to.",
)
def reference(folder: Path, dataset: Path, split: str) -> int:
    """Returns 0. Raises Misconfigured, Corrupt, Rejected."""
    made = verbs.add_reference(folder, dataset, split)
    say(
        f"{made.rows:,} rows, {len(made.features)} inputs, {len(made.segments)} segments; "
        f"not signed: sluice release sign DIR --key FILE"
    )
    return 0


@command.command("show", help="Print what a release is; nothing is verified.")
@_folder
def show(folder: Path) -> int:
    """Returns 0."""
    from sluice.application.sign_release import fit, read_manifest  # noqa: PLC0415 - loads numba

    manifest = read_manifest(folder)
    made = manifest.provenance
    say(f"{manifest.id}: {made.kind}")
    say(f"  made        {to_datetime(manifest.created_at):%Y-%m-%d %H:%M} UTC")
    say(
        f"  trained on  {made.rows} rows, {made.frauds} frauds, "
        f"{to_datetime(made.trained_from):%Y-%m-%d} to {to_datetime(made.trained_until):%Y-%m-%d}"
    )
    say(f"  features    {len(manifest.features)}, {fit(manifest)}")
    say(f"  amounts     {manifest.reference_currency}")
    say(f"  tolerates   {', '.join(manifest.tolerates) or 'no missing view'}")
    steps = ", ".join(f"{step} {ppm}" for step, ppm in manifest.thresholds_ppm.items())
    say(f"  thresholds  {steps + ' ppm, where its frauds cost least' if steps else 'none'}")
    for name, value in manifest.metrics.items():
        say(f"  {name:<40} {value}")
    say("  not verified: run sluice release verify")
    return 0


@command.command("verify", help="Check a release as a decider does; exit 1 if it is not whole.")
@_folder
@click.option(
    "--trust",
    type=FOLDER,
    default=DEFAULT_TRUST,
    show_default=True,
    metavar="KEYS",
    help="A file of public keys, or a folder of *.pub.",
)
@click.option(
    "--policy",
    type=FOLDER,
    default=DEFAULT_POLICY,
    show_default=True,
    metavar="DIR",
    help="Whose reference currency the release must be of.",
)
def verify(folder: Path, trust: Path, policy: Path) -> int:
    """Returns 0. Raises Corrupt, Misconfigured."""
    manifest, signer, by = verbs.verify_release(folder, trust, policy)
    say(
        f"{manifest.id} is whole: signed by {signer}, {len(manifest.files)} digests, "
        f"{len(manifest.features)} features, {len(manifest.warm_up)} warm-up rows"
    )
    say(activation_line(by))
    return 0


@command.command("keygen", help="Make a key pair.")
@click.option(
    "--out", type=FOLDER, required=True, metavar="FILE", help="A new file; FILE.pub beside it."
)
def keygen(out: Path) -> int:
    """Returns 0. Raises Misconfigured for a file that is there already."""
    from sluice.application.sign_release import make_key  # noqa: PLC0415 - loads numba

    key_id, public = make_key(out)
    say(f"{key_id}: {out} is secret, {public} is to be trusted")
    return 0


@command.command("sign", help="Sign a release whose files are the ones it names.")
@_changed
@click.option("--key", type=FOLDER, required=True, metavar="FILE", help="As keygen wrote it.")
def sign(folder: Path, key: Path) -> int:
    """Returns 0. Raises Corrupt for other files, Misconfigured."""
    from sluice.application.sign_release import sign_release  # noqa: PLC0415 - loads numba

    signed = sign_release(folder, key)
    say(
        f"{signed.release} signed by {signed.key_id}: manifest {signed.manifest_sha256[:12]}",
        err=True,
    )
    return 0


@command.command("list", help="Print the releases of a folder, and what each is; nothing verified.")
@_folder
@click.option(
    "--returns",
    is_flag=True,
    help="Also what went back by itself, from the topic rollouts.v1; exit 1 if something did.",
)
@click.option("--json", "as_json", is_flag=True, help="One object, for programs.")
def list_(folder: Path, returns: bool, as_json: bool) -> int:
    """Returns 0, or 1 if something went back. Raises Misconfigured, Unavailable."""
    found = verbs.list_releases(folder)
    now = found.activation
    back = verbs.returned(load()[0], now.epoch) if returns and now is not None else []
    if as_json:
        releases = [
            {"id": m.id, "digest": digest, "created_at": m.created_at, "is": _role(now, digest)}
            for m, digest in found.releases
        ]
        made = {"activation": now, "releases": releases, "broken": found.broken, "returned": back}
        say(msgspec.json.encode(made).decode())
        return 1 if back else 0
    for manifest, digest in found.releases:
        when = f"{to_datetime(manifest.created_at):%Y-%m-%d %H:%M}"
        say(f"{_role(now, digest):<16} {manifest.id:<32} {digest[:12]}  {when} UTC")
    for name, wrong in found.broken.items():
        say(f"{'broken':<16} {name}: {wrong}")
    if now is None:
        say("no activation: sluice release promote makes the first champion")
        return 0
    when = f"{to_datetime(now.epoch):%Y-%m-%d %H:%M:%S} UTC"
    signed = ", ".join(found.signers) or "nobody"
    say(f"epoch {now.epoch}: {now.act} of {when} by {now.who} ({now.why}), signed by {signed}")
    for event in back:
        say(
            f"{event.role} {event.release} went back at {event.emitter}, "
            f"{to_datetime(event.at):%H:%M:%S} UTC: {event.reason}, {event.detail}"
        )
    return 1 if back else 0


def _role(now: Activation | None, digest: str) -> str:
    if now is None:
        return "-"
    if now.digest == digest:
        return "champion"
    if now.canary and now.canary.release.digest == digest:
        return f"canary {now.canary.share_ppm}"
    if now.shadow and now.shadow.digest == digest:
        return "shadow"
    return "before" if now.before and now.before.digest == digest else "-"


@command.command("diff", help="Print in what the manifests of two releases differ; exit 1 if so.")
@click.argument("one", type=COPY, metavar="A")
@click.argument("other", type=COPY, metavar="B")
def diff(one: Path, other: Path) -> int:
    """Returns 0 if they are the same, 1 if not. Raises Misconfigured."""
    from sluice.application.sign_release import (  # noqa: PLC0415 - loads numba
        differences,
        read_manifest,
    )

    differ = differences(read_manifest(one), read_manifest(other))
    for name, (was, now) in differ.items():
        say(f"{name}: {was} -> {now}")
    return 1 if differ else 0


def _step(takes: Callable[..., int]) -> Callable[..., int]:
    """The arguments and options of a step."""
    for option in reversed(
        (
            _changed,
            click.argument("name"),
            click.option(
                "--key", type=FOLDER, required=True, metavar="FILE", help="As keygen wrote it."
            ),
            click.option("--who", required=True, metavar="NAME", help="Who answers for it."),
            click.option(
                "--why", required=True, metavar="TEXT", help="For the log and the record."
            ),
            click.option(
                "--expect",
                type=int,
                metavar="EPOCH",
                help="Refuse if another epoch lies there. Default: the one found at the start.",
            ),
        )
    ):
        takes = option(takes)
    return takes


_once = click.option(
    "--once", is_flag=True, help="Sign nothing if that is what lies there already."
)


@command.command("shadow", help="Sign that a release scores beside the champion of DIR.")
@_step
@_once
def shadow(
    folder: Path, name: str, key: Path, who: str, why: str, expect: int | None, once: bool
) -> int:
    """Returns 0. Raises Misconfigured, Corrupt."""
    done = verbs.steps(folder, key, who=who, why=why, expect=expect, once=once).shadow(name)
    say(f"{name}: shadow of {done.id}, epoch {done.epoch}", err=True)
    return 0


@command.command("canary", help="Sign that the shadow of DIR answers a share of the cards.")
@_step
@_once
@click.option(
    "--share-ppm",
    type=int,
    default=FIRST_SHARE_MAX_PPM,
    show_default=True,
    metavar="PPM",
    help="Of the cards, in millionths. More than the default only once it is the canary.",
)
def canary(
    folder: Path,
    name: str,
    key: Path,
    who: str,
    why: str,
    expect: int | None,
    once: bool,
    share_ppm: int,
) -> int:
    """Returns 0. Raises Misconfigured, Corrupt."""
    done = verbs.steps(folder, key, who=who, why=why, expect=expect, once=once).canary(
        name, share_ppm
    )
    say(f"{name}: canary of {share_ppm} ppm beside {done.id}, epoch {done.epoch}", err=True)
    return 0


@command.command("promote", help="Sign that the canary of DIR is the champion from now on.")
@_step
@click.option(
    "--held-s",
    type=click.IntRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long it must have had its share.",
)
@_once
def promote(
    folder: Path,
    name: str,
    key: Path,
    who: str,
    why: str,
    expect: int | None,
    held_s: int,
    once: bool,
) -> int:
    """Returns 0. Raises Misconfigured if it went back by itself or has not held for so long,
    Unavailable if nobody can say."""
    step = verbs.steps(folder, key, who=who, why=why, expect=expect, once=once)
    done = step.promote(name, lambda epoch: verbs.returned(load()[0], epoch), held_s)
    say(f"{name}: champion, epoch {done.epoch}", err=True)
    return 0


@command.command(
    "withdraw",
    help="Sign that a release of DIR is out, whatever it was: shadow, canary or champion. Of one "
    "that is none of them nothing is signed.",
)
@_step
def withdraw(folder: Path, name: str, key: Path, who: str, why: str, expect: int | None) -> int:
    """Returns 0. Raises Misconfigured if there is no champion to go back to, Corrupt."""
    done = verbs.steps(folder, key, who=who, why=why, expect=expect).withdraw(name)
    say(f"{name}: out; the champion is {done.id}, epoch {done.epoch}", err=True)
    return 0


@command.command("held", help="Ask whether a release of DIR is still what it was made.")
@_folder
@click.argument("name")
@click.option(
    "--as",
    "role",
    type=click.Choice(["shadow", "canary", "champion"]),
    required=True,
    help="What it was made.",
)
def held(folder: Path, name: str, role: Role) -> int:
    """Returns 0. Raises Misconfigured if it is not, or went back; Unavailable if nobody can say."""
    now = verbs.held(load()[0], folder, name, role)
    say(f"{name} is the {role}, epoch {now.epoch}, and no decider took it out")
    return 0


add_acts(command, "release")
