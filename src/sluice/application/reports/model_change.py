"""A release of a model from its making to what it decided: records of the log, and its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sluice.application.judging.verdict import ABOUT
from sluice.application.judging.verdict import Verdict as GateVerdict
from sluice.application.read_log import Unverifiable
from sluice.application.reports.document import (
    Cell,
    Document,
    Fact,
    Pack,
    Section,
    Table,
    counted,
    instant,
)
from sluice.application.reports.evidence import (
    Checked,
    Kept,
    Log,
    Progress,
    check,
    checkpoints,
    found_at,
    named,
    proof_file,
    proof_of,
)
from sluice.application.sign_release import differences
from sluice.domain.records.log_record import (
    DecisionRecord,
    ModelRecord,
    RolloutRecord,
)
from sluice.domain.release import Manifest

DIFFERENCES_MAX = 200
"""Lines of what changed against the release before; `sluice release diff` has all."""
_LIMITS = [
    "Why a release may decide is a sentence of whoever signed it. The log holds the SHA-256 of the "
    "statement, not the sentence; the statement is in the release's activation.",
    "Whether the figures of card and certificate were measured rightly is not checked here: their "
    "digests and signatures are.",
    "Training data, code and the runs that were discarded are with the training set and the run "
    "(docs/reference/run.md).",
]
RELEASE_FILES = ("card.md", "certificate.json", "manifest.json", "manifest.sig")


class Folder(NamedTuple):
    """A release as its folder holds it. digest: SHA-256 of the manifest. signer: id of the key, ""
    if its signature does not hold by the keys of trust; then why says why. gate: the certificate's
    verdict and signer, None without one. files: of RELEASE_FILES those that there are."""

    manifest: Manifest
    digest: str
    signer: str
    why: str
    gate: GateVerdict | None
    gate_signer: str
    files: Mapping[str, bytes]


class _Decided:
    """Counts decisions of a release while the log is verified."""

    def __init__(self, release: str) -> None:
        self._mark = named("release", release)
        self._release = release
        self.outcomes: Counter[str] = Counter()
        self.levels: Counter[str] = Counter()
        self.digests: Counter[str] = Counter()
        self.policies: Counter[str] = Counter()
        self.first_us: int | None = None
        self.last_us: int | None = None

    def __call__(self, first: int, entries: Sequence[bytes]) -> None:
        for place, entry in enumerate(entries, first):
            if self._mark not in entry:
                continue
            record = found_at(place, entry).record
            if not isinstance(record, DecisionRecord):
                continue
            body = record.body
            if body.model is None or body.model.release != self._release:
                continue
            self.outcomes[body.outcome] += 1
            self.levels[body.degradation_level] += 1
            self.policies[body.policy.id] += 1
            if body.model.digest is not None:
                self.digests[body.model.digest] += 1
            at = body.decided_at
            self.first_us = at if self.first_us is None else min(self.first_us, at)
            self.last_us = at if self.last_us is None else max(self.last_us, at)


class _Taken:
    """Steps of a release alike in all but decider and time: each start of a decider is one. first:
    its log's number, its index, and the record."""

    def __init__(self, first: tuple[int, int, RolloutRecord]) -> None:
        self.first = first
        self.times = 0
        self.first_us = self.last_us = first[2].body.at

    def add(self, record: RolloutRecord) -> None:
        self.times += 1
        self.first_us = min(self.first_us, record.body.at)
        self.last_us = max(self.last_us, record.body.at)


class _Rollout:
    """Sums up the steps of a release while logs are verified."""

    def __init__(self, release: str) -> None:
        self._mark = named("release", release)
        self._release = release
        self.number = 0
        """Of the log that is read."""
        self.taken: dict[tuple[object, ...], _Taken] = {}

    def __call__(self, first: int, entries: Sequence[bytes]) -> None:
        for place, entry in enumerate(entries, first):
            if not entry.startswith(b'{"type":"rollout"') or self._mark not in entry:
                continue
            record = found_at(place, entry).record
            if not isinstance(record, RolloutRecord):
                continue
            body = record.body
            if body.release != self._release or body.role == "policy":
                continue
            alike = (body.digest, body.role, body.step, body.share_ppm, body.actor, body.reason)
            new = _Taken((self.number, place, record))
            self.taken.setdefault(alike, new).add(record)


class _Placed(NamedTuple):
    log: Checked
    place: int
    record: ModelRecord | RolloutRecord

    @property
    def proof(self) -> str:
        return proof_file(self.log, self.record.type, self.place)


def model_change(
    logs: Sequence[Log],
    release: str,
    before: str | None,
    find: Callable[[str], Folder | None],
    *,
    now_us: int,
    progress: Progress = lambda _done, _of: None,
) -> Pack:
    """before: the release that it took the place of; None for what its activation says. find: the
    folder of a release by its id or its manifest's digest, if it is at hand.

    Raises Unfounded; Unverifiable if neither a log nor a folder knows the release.
    """
    folder = find(release)
    decided, rollout = _Decided(release), _Rollout(release)
    checked: list[Checked] = []
    found: list[_Placed] = []
    for number, log in enumerate(logs):
        kept = Kept(b'{"type":"model"')
        rollout.number = number

        def take(first: int, entries: Sequence[bytes], kept: Kept = kept) -> None:
            kept(first, entries)
            rollout(first, entries)
            decided(first, entries)

        one = check(log, take, progress)
        checked.append(one)
        found += [
            _Placed(one, entry.place, entry.record)
            for entry in kept.found
            if isinstance(entry.record, ModelRecord)
        ]
    for taken in rollout.taken.values():
        number, place, record = taken.first
        found.append(_Placed(checked[number], place, record))
    digests = _digests_of(release, found, decided) | ({folder.digest} if folder else set())
    mine = [one for one in found if _is_of(one.record, release, digests)]
    if not mine and not decided.outcomes and folder is None:
        entries = sum(one.rests_on.size for one in checked)
        raise Unverifiable(f"no record of release {release} in {entries:,} entries")
    was = before or _before(mine, digests)
    files = checkpoints(checked)
    for placed in mine:
        files[placed.proof] = proof_of(placed.log, placed.place)
    if folder is not None:
        files |= {f"release-{name}": raw for name, raw in folder.files.items()}
    return Pack(
        Document(
            kind="model-change",
            title=f"Change of a model: {release}",
            subject=f"Release {release}",
            audience="Model risk management, internal audit, a supervisor",
            made_at=instant(now_us),
            lead=_lead(decided, rollout, mine),
            rests_on=[one.rests_on for one in checked],
            sections=[
                _what(release, folder, decided),
                _gate(folder),
                _changed(folder, find(was) if was else None),
                _signed(mine),
                _steps(rollout),
                _decisions(decided),
                *([_proofs(mine)] if mine else []),
            ],
            limits=_LIMITS,
        ),
        files,
    )


def _digests_of(release: str, found: Sequence[_Placed], decided: _Decided) -> set[str]:
    """Of the manifests that bear its name, as decisions, activations and steps say."""
    said = set(decided.digests)
    for one in found:
        name = (
            one.record.body.id if isinstance(one.record, ModelRecord) else one.record.body.release
        )
        if name == release:
            said.add(one.record.body.digest)
    return said


def _is_of(record: ModelRecord | RolloutRecord, release: str, digests: set[str]) -> bool:
    if isinstance(record, RolloutRecord):
        return record.body.release == release
    body = record.body
    return body.id == release or not digests.isdisjoint({body.digest, body.shadow, body.canary})


def _before(mine: Sequence[_Placed], digests: set[str]) -> str | None:
    """Digest of the champion of before, by the newest activation that made it the champion."""
    said = [
        (one.record.body.epoch, one.record.body.before)
        for one in mine
        if isinstance(one.record, ModelRecord)
        and one.record.body.digest in digests
        and one.record.body.before is not None
    ]
    return max(said)[1] if said else None


def _lead(decided: _Decided, rollout: _Rollout, mine: Sequence[_Placed]) -> str:
    total = decided.outcomes.total()
    made = (
        f"It made {counted(total, 'decision')}, the first on {instant(decided.first_us)}, the last "
        f"on {instant(decided.last_us)}."
        if decided.first_us is not None and decided.last_us is not None
        else "No decision was made by it, as far as these logs tell."
    )
    signed = sum(isinstance(one.record, ModelRecord) for one in mine)
    steps = sum(taken.times for taken in rollout.taken.values())
    return (
        f"{made} These logs hold {counted(signed, 'activation')} that name it, and "
        f"{counted(steps, 'step')} of its rollout."
    )


def _what(release: str, folder: Folder | None, decided: _Decided) -> Section:
    title = "What it is"
    if folder is None:
        return Section(
            title=title,
            text=[
                "No folder of the release was at hand (`--releases DIR`), so its manifest, card "
                "and certificate are not here."
            ],
            facts=[Fact("Release", release), Fact("Digest, by its decisions", _digests(decided))],
        )
    m, made = folder.manifest, folder.manifest.provenance
    text = []
    other = set(decided.digests) - {folder.digest}
    if other:
        text.append(
            "Decisions of this name were made by another manifest than this folder's: "
            + ", ".join(sorted(other))
        )
    return Section(
        title=title,
        text=[*text, "Its card and its manifest lie beside this document as they are signed."],
        facts=[
            Fact("Release", m.id),
            Fact("Kind", made.kind),
            Fact("Made", instant(m.created_at)),
            Fact("Manifest, SHA-256", folder.digest),
            Fact("Signed by", folder.signer or f"not verified: {folder.why}"),
            Fact("Trained on", f"{made.rows:,} rows, {made.frauds:,} frauds"),
            Fact("Of the time", f"{instant(made.trained_from)} to {instant(made.trained_until)}"),
            Fact("Training data, SHA-256", made.data),
            Fact("Training code, SHA-256", made.code),
            Fact("Features", len(m.features)),
            Fact("Works without", ", ".join(m.tolerates) or "no view may be missing"),
            *(Fact(f"Measured: {name}", value) for name, value in m.metrics.items()),
        ],
    )


def _digests(decided: _Decided) -> str:
    return ", ".join(sorted(decided.digests)) or "not told"


def _gate(folder: Folder | None) -> Section:
    title = "What it had to pass"
    if folder is None or folder.gate is None:
        return Section(
            title=title,
            text=[
                "The release has no certificate of the gate."
                if folder is not None
                else "Not known without the folder of the release."
            ],
        )
    gate = folder.gate
    rows: list[list[Cell]] = [
        [ABOUT[one.reason], "passed" if one.passed else "failed", one.found] for one in gate.checks
    ]
    return Section(
        title=title,
        text=[
            f"The gate {'accepted' if gate.accepted else 'refused'} it on {gate.rows:,} rows with "
            f"{gate.frauds:,} known frauds"
            + (f", beside {gate.champion}." if gate.champion else ", without a champion.")
        ],
        facts=[Fact("Signed by", folder.gate_signer or "its signature does not hold here")],
        table=Table(["Asked", "", "Found"], rows),
    )


def _changed(folder: Folder | None, before: Folder | None) -> Section:
    title = "What changed against the release before"
    if folder is None or before is None:
        missing = "the release" if folder is None else "the release before (`--before RELEASE`)"
        return Section(title=title, text=[f"Not compared: the folder of {missing} is not here."])
    rows: list[list[Cell]] = [
        [name, was, now]
        for name, (was, now) in differences(before.manifest, folder.manifest).items()
    ]
    said = f"By their manifests, against {before.manifest.id}: {counted(len(rows), 'difference')}."
    if len(rows) > DIFFERENCES_MAX:
        said += f" The first {DIFFERENCES_MAX}; all of them: `sluice release diff A B`."
    return Section(
        title=title,
        text=[said],
        table=Table(["What", "Before", "Now"], rows[:DIFFERENCES_MAX]) if rows else None,
    )


def _signed(mine: Sequence[_Placed]) -> Section:
    title = "Who let it decide"
    rows: list[list[Cell]] = [
        [
            instant(one.record.body.epoch),
            one.record.body.act,
            one.record.body.id,
            one.record.body.actor,
            ", ".join(one.record.body.signers),
            one.record.body.share_ppm,
            one.record.body.statement,
        ]
        for one in mine
        if isinstance(one.record, ModelRecord)
    ]
    if not rows:
        return Section(
            title=title,
            text=["No record of an activation that names it is in these logs."],
        )
    return Section(
        title=title,
        text=["Activations that name it, as champion, canary or shadow."],
        table=Table(
            ["Signed", "Act", "Champion", "Who", "Keys", "Share, in a million", "Statement"], rows
        ),
    )


def _steps(rollout: _Rollout) -> Section:
    title = "How it was brought in"
    rows: list[list[Cell]] = []
    for taken in sorted(rollout.taken.values(), key=lambda one: one.first_us):
        body = taken.first[2].body
        rows.append(
            [
                instant(taken.first_us),
                instant(taken.last_us),
                taken.times,
                body.role,
                body.step,
                body.share_ppm,
                body.actor,
                body.reason,
            ]
        )
    if not rows:
        return Section(title=title, text=["No step of a rollout of it is in these logs."])
    return Section(
        title=title,
        text=[
            "What deciders did with it. Each decider tells each step, and with each start by what "
            "it decides; those alike are counted."
        ],
        table=Table(
            ["First", "Last", "Times", "As", "Step", "Share, in a million", "Who", "Reason"], rows
        ),
    )


def _decisions(decided: _Decided) -> Section:
    total = decided.outcomes.total()
    rows: list[list[Cell]] = [
        [name, number, f"{100 * number / total:.2f} %"]
        for name, number in sorted(decided.outcomes.items())
    ]
    return Section(
        title="What it decided",
        text=["Decisions that name it as what scored, up to the checkpoints."],
        facts=[
            Fact("Decisions", total),
            Fact("With a view missing", decided.levels["D1"]),
            Fact("Policies", ", ".join(sorted(decided.policies)) or "none"),
        ],
        table=Table(["Outcome", "Decisions", "Share"], rows) if rows else None,
    )


def _proofs(mine: Sequence[_Placed]) -> Section:
    return Section(
        title="Proofs",
        text=[
            "Of each activation above, and of the first of the steps alike: "
            "`sluice log verify-proof FILE --key KEY`."
        ],
        table=Table(
            ["Log", "Entry", "Record", "File"],
            [[one.log.rests_on.log, one.place, one.record.type, one.proof] for one in mine],
        ),
    )
