"""What judging reads of a run is what training writes."""

import msgspec
from sluice.application.judging.run import decode_run

from sluice_models.run import Calibration, Candidate, Run, Search, Timing


def test_judging_reads_a_run_as_training_writes_it() -> None:
    nothing = "0" * 64
    candidate = Candidate(
        name="student",
        kind="a net",
        model="models/student.onnx",
        sha256=nothing,
        bytes=1,
        opset=20,
        inputs=["features"],
        releasable=True,
        seed=1,
        parameters={"negatives": 30},
        prior_correction_milli=2893,
        rows=10,
        frauds=1,
        calibration=Calibration(slope=1.0, offset=0.0, rows=0, frauds=0),
        validation={"auc": 0.9},
        missing={"device": 0.9},
        tolerates=["terminal"],
        timings=[Timing(batch=1, calls=1, median_us=1.0, p99_us=1.0, rows_per_s=1.0)],
    )
    run = Run(
        dataset=nothing,
        catalogue="c",
        features=["amount_minor"],
        code=nothing,
        seed=1,
        trained_from=0,
        trained_until=1,
        rows=10,
        frauds=1,
        reference_row=[5],
        candidates=[candidate],
        scores={"test-1": nothing},
        learnt=nothing,
        search=Search(finished=0, pruned=0, seconds=0.0, ended_by="given"),
        versions={},
    )
    found = decode_run(msgspec.json.encode(run), "run.json")
    mine = msgspec.structs.asdict(found.candidate("student"))
    assert mine == {name: getattr(candidate, name) for name in mine}
    whole = {k: v for k, v in msgspec.structs.asdict(found).items() if k != "candidates"}
    assert whole == {name: getattr(run, name) for name in whole}
