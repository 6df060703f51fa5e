"""Verdicts of the monitoring report: quiet where nothing changed, loud where it matters, and in words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from handmade_log import (
    census_reference,
    census_years,
    numbers_reference,
    view,
    write_census_log,
    write_log,
)

from mlworkbench.core.errors import GateFailed
from mlworkbench.monitoring.monitor import Thresholds, monitor_log
from mlworkbench.serving.log import PredictionLog
from mlworkbench.serving.signature import Column, Signature


@pytest.fixture(scope="module")
def years() -> tuple[pd.DataFrame, pd.DataFrame]:
    return census_years()


@pytest.fixture(scope="module")
def known(years):
    return census_reference(years[0])


def report_on(folder, people, known, **limits):
    write_census_log(folder, people)
    return monitor_log(view(folder), known, Thresholds(**limits))


def test_the_census_of_later_years_names_ancestry_and_does_not_alarm(years, known, tmp_path):
    found = report_on(tmp_path, years[1], known)
    assert "ancestry" in found.changed
    assert found.status == "passed" and not any(d.alert for d in found.drift)
    assert any(r.startswith("ancestry changed significantly, but by little") for r in found.reasons)
    assert any("roc_auc is" in r and "no sure loss" in r for r in found.reasons)
    assert found.performance.labelled == found.volume.rows == 12_000
    found.check()


def test_reference_against_reference_is_quiet(years, size, tmp_path, measured):
    seeds, people, loud, changed = size("monitoring_quiet_seeds"), years[0], 0, 0
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(people))
        known = census_reference(people.iloc[order[:1200]])
        found = report_on(tmp_path / str(seed), people.iloc[order[1200:2000]], known)
        loud += found.status != "passed"
        changed += bool(found.changed)
    measured(seeds=seeds, alarms=loud, changes=changed)
    assert loud <= 0.05 * seeds and changed <= 0.05 * seeds


def test_a_shift_alarms_names_the_column_and_fails_the_check(years, known, tmp_path):
    older = years[1].sample(3000, random_state=6).assign(age=lambda p: (p["age"] + 15).clip(upper=94))
    found = report_on(tmp_path, older, known)
    assert found.status == "failed" and found.drift[0].alert
    assert any(r.startswith("age has drifted") for r in found.reasons)
    assert any(d.changed and d.side == "output" for d in found.drift)
    with pytest.raises(GateFailed, match="age has drifted"):
        found.check()


def test_missing_values_that_rise_alarm_by_the_columns_name(years, known, tmp_path):
    people = years[1].sample(2000, random_state=5).copy()
    people.loc[::5, "education"] = np.nan
    found = report_on(tmp_path, people, known)
    assert found.status == "failed" and any(r.startswith("education is missing in 2") for r in found.reasons)


def test_worse_labels_alarm_though_no_column_changed(years, known, tmp_path):
    people = years[0].sample(4000, random_state=1)
    flipped = people["employed"].where(np.random.default_rng(0).random(4000) > 0.15,
                                       people["employed"].map({"yes": "no", "no": "yes"}))
    found = report_on(tmp_path, people.assign(employed=flipped), known)
    assert found.performance.alert and found.status == "failed" and not any(d.alert for d in found.drift)
    assert "roc_auc" in found.reasons[0] and "and 0.05 alarms" in found.reasons[0]
    lenient = monitor_log(view(tmp_path), known, Thresholds(performance_drop=0.5))
    assert lenient.status == "passed" and any("surely a little worse" in r for r in lenient.reasons)


def test_refused_requests_alarm_by_their_share(years, known, tmp_path):
    write_census_log(tmp_path, years[0].sample(2500, random_state=2))
    writer = PredictionLog(tmp_path, model="census:1")
    shared = {"time": "2026-01-31T12:00:00.000000Z", "latency_ms": 0.1, "status": 400}
    for number in range(10):
        error = {"row": 0, "column": "aeg", "problem": "unknown column", "got": 1}
        writer.rejected([error], {**shared, "request_id": f"bad{number}"}, rows=1)
    found = monitor_log(view(tmp_path), known)
    assert found.status == "failed" and found.refusals == (("aeg", "unknown column", 10),)
    assert found.reasons == ("10 of 20 requests were refused (50.0%), surely more than 5.0%.",)
    assert monitor_log(view(tmp_path), known, Thresholds(error_share=0.6)).status == "passed"


def test_rows_left_out_are_told_as_rows_and_alarm_by_their_own_share(years, known, tmp_path):
    write_census_log(tmp_path, years[0].sample(2500, random_state=2))
    writer = PredictionLog(tmp_path, model="census:1")
    error = {"row": 0, "column": "age", "problem": "must be a number", "got": "old"}
    shared = {"time": "2026-01-31T12:00:00.000000Z", "latency_ms": 0.1, "status": 200}
    for number in range(10):  # of the ten requests that are there, each had one row more
        writer.rejected([error], {**shared, "request_id": f"r{250 * number}"}, rows=251)
    found = monitor_log(view(tmp_path), known)
    assert found.status == "passed" and (found.volume.requests, found.rejected, found.skipped) == (10, 0, 10)
    assert "10 of 2,510 rows were left out of requests that were answered (0.4%)." in found.reasons
    assert "Rows left out" in [p.title for p in found.evidence()]
    assert "Refused requests" not in [p.title for p in found.evidence()]
    strict = monitor_log(view(tmp_path), known, Thresholds(error_share=0.001))
    assert strict.status == "failed" and strict.reasons[0].endswith("(0.4%), surely more than 0.1%.")


def test_an_empty_log_says_that_there_is_not_enough(known, tmp_path):
    found = monitor_log(view(tmp_path), known)
    assert found.status == "passed" and found.headline() == "Not enough rows to say"
    assert "not enough rows to say (0 predictions in the log, and 200 are needed)" in found.reasons[0]
    assert [piece.title for piece in found.evidence()] == ["In words"]


def test_below_min_rows_nothing_is_said_about_drift(years, known, tmp_path):
    found = report_on(tmp_path, years[1].head(199).assign(age=94.0), known)
    assert not found.drift and found.status == "passed"
    assert report_on(tmp_path, years[1].head(1).assign(age=94.0), known, min_rows=100).status == "failed"


def test_labels_that_the_model_does_not_know_are_left_out_and_told(years, known, tmp_path):
    people = years[0].sample(600, random_state=3).reset_index(drop=True)
    people.loc[:9, "employed"] = "perhaps"
    found = report_on(tmp_path, people, known)
    assert (found.performance.labelled, found.performance.left_out) == (590, 10)
    assert "10 labels are none that the model knows; they were left out." in found.reasons


def test_a_bundle_without_an_evaluation_is_monitored_for_what_it_knows(years, known, tmp_path):
    bare = replace(known, outputs=None, metrics={}, positive=None)
    found = report_on(tmp_path, years[1].sample(1000, random_state=4), bare)
    assert all(d.side == "input" for d in found.drift)
    assert any("carries no evaluation" in r for r in found.reasons)
    assert found.evidence()


def test_one_log_gives_one_report(years, known, tmp_path):
    first = report_on(tmp_path, years[1].sample(2000, random_state=5), known)
    second = monitor_log(view(tmp_path), known)
    assert first.summary() == second.summary() and first.reasons == second.reasons
    assert [p.html() for p in first.evidence()] == [p.html() for p in second.evidence()]
    titles = [piece.title for piece in first.evidence()]
    assert titles[0] == "In words" and "Predictions over time" in titles and "Latency" in titles


def test_no_input_value_of_a_free_text_shows_in_the_report(tmp_path):
    r = np.random.default_rng(0)
    frame = pd.DataFrame({"note": [f"person-{i}@example.org" for i in range(1000)], "x": r.normal(size=1000)})
    signature = Signature([Column("note", "string", "str"), Column("x", "number", "float64")])
    known = numbers_reference(signature, frame, lambda f: f["x"])
    outputs = [{"prediction": float(x)} for x in frame["x"]]
    write_log(tmp_path, frame.to_dict("records"), outputs, model="model:1")
    found = monitor_log(view(tmp_path, "model:1"), known)
    assert found.drift and "@example" not in "".join(p.html() for p in found.evidence())


@pytest.mark.parametrize("classes", [[0, 1], [False, True], ["no", "yes"], [1.0, 2.0], ["a", "b", "c"], None])
def test_every_kind_of_class_is_quiet_on_itself_and_loud_when_it_moves(classes, tmp_path):
    task = {None: "regression", 2: "binary", 3: "multiclass"}[classes and len(classes)]
    signature = Signature([Column("x", "number", "float64")], task, classes)

    def say(frame):
        if classes is None:
            return frame["x"].to_numpy()
        return [classes[min(int(abs(x)), len(classes) - 1)] for x in frame["x"]]

    def logged(folder, seed, shift):
        frame = pd.DataFrame({"x": np.random.default_rng(seed).normal(shift, 1, 1500)})
        answers = say(frame)
        outputs = [{"prediction": v.item() if hasattr(v, "item") else v} for v in answers]
        write_log(folder, frame.to_dict("records"), outputs, [o["prediction"] for o in outputs], model="model:1")
        return view(folder, "model:1")

    frame = pd.DataFrame({"x": np.random.default_rng(1).normal(size=3000)})
    known = numbers_reference(signature, frame, say)
    quiet, moved = monitor_log(logged(tmp_path / "q", 2, 0), known), monitor_log(logged(tmp_path / "m", 3, 2), known)
    assert quiet.status == "passed" and not quiet.changed
    assert moved.status == "failed" and set(moved.changed) == {"x", "prediction"}
    assert quiet.performance.labelled == moved.performance.labelled == 1500
    assert [p for p in moved.evidence() if p.title == "Predictions over time"]


@pytest.mark.parametrize(("task", "classes", "outputs"), [
    ("multilabel", [[0, 1], [0, 1]], ["news", "sport"]), ("multioutput", [["l", "s"], ["a", "b", "c"]], ["size", "kind"]),
    ("multitarget", None, ["a", "b"]), ("outlier", None, ["prediction"]), ("cluster", None, ["prediction"]),
    ("transform", None, ["a", "b"]), ("transform", None, ["one"]),
])
def test_the_drift_of_every_task_is_followed_and_where_performance_is_not_it_says_so(task, classes, outputs, tmp_path):
    signature = Signature([Column("x", "number", "float64")], task, classes, outputs)
    texts = {"multioutput": (np.array(["l", "s"]), np.array(["a", "b"])), "outlier": (np.array([1, -1]),) * 2}

    def say(frame):
        up = (frame["x"].to_numpy() > 0).astype(int)
        if task in ("outlier", "cluster"):
            return texts.get(task, (np.array([0, 1]),))[0][up]
        if task in ("multitarget", "transform"):
            return np.stack([frame["x"], -2 * frame["x"]], axis=1)[:, : len(outputs)]
        first, second = texts.get(task, (np.array([0, 1]),) * 2)
        return np.stack([first[up], second[up]], axis=1)

    def logged(folder, seed, shift):
        frame = pd.DataFrame({"x": np.random.default_rng(seed).normal(shift, size=1500)})
        said = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in say(frame).tolist()]
        write_log(folder, frame.to_dict("records"), [{"prediction": v} for v in said], said, model="model:1")
        return view(folder, "model:1")

    frame = pd.DataFrame({"x": np.random.default_rng(1).normal(size=3000)})
    known = replace(numbers_reference(signature, frame, say), metrics={"rmse": {"value": 1.0}})
    quiet, moved = monitor_log(logged(tmp_path / "q", 2, 0), known), monitor_log(logged(tmp_path / "m", 3, 2), known)
    assert quiet.status == "passed" and not quiet.changed
    assert moved.status == "failed" and any(name.startswith("prediction") for name in moved.changed)
    assert any(f"that of a {task} model is not followed" in note for note in quiet.notes) and quiet.evidence()
    assert not any("labels are none" in note for note in quiet.notes)
