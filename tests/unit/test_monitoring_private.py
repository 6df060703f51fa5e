"""Monitoring of a log that leaves columns out or hashes them: the same verdict where it can see, words where it cannot."""

from dataclasses import replace
from pathlib import Path

import pytest
from handmade_bundle import json_rows
from handmade_log import NOON, census_reference, census_years, chance_employed, view, write_census_log

from mlworkbench.monitoring.monitor import monitor_log
from mlworkbench.monitoring.private import Private, codes, read_private
from mlworkbench.serving.log import PredictionLog
from mlworkbench.serving.privacy import ColumnVeil, read_salt

HASHED, LEFT_OUT = ("sex", "marital_status", "age"), ("ancestry",)


@pytest.fixture(scope="module")
def people():
    early, late = census_years()
    late = late.head(1500).copy()
    late["sex"] = late["sex"].iloc[0]  # all of one sex now: no doubt about it
    return early, late


def write_private_log(folder: Path, people) -> None:
    """The people as a service logs them that hides columns."""
    rows, chances = json_rows(people.drop(columns="employed")), chance_employed(people).tolist()
    salt = read_salt(folder, {})
    veil = ColumnVeil(exclude=LEFT_OUT, hash_=HASHED, salt=salt, known=rows[0])
    log = PredictionLog(folder, model="census:1", veil=veil)
    outputs = [{"prediction": "yes" if q > 0.5 else "no", "probabilities": [1 - q, q]} for q in chances]
    records = [{"row": i, "inputs": x, "outputs": o, "flags": []} for i, (x, o) in enumerate(zip(rows, outputs, strict=True))]
    log.predictions(records, {"time": NOON, "request_id": "r", "latency_ms": 2.0, "status": 200})
    log.close()


@pytest.fixture(scope="module")
def reports(people, tmp_path_factory):
    """The report on the plain log, and on the private one; both of the same people."""
    early, late = people
    plain, hidden = (tmp_path_factory.mktemp(name) / "log" for name in ("plain", "hidden"))
    write_census_log(plain, late)
    write_private_log(hidden, late)
    known = census_reference(early)
    private = read_private({"log_exclude": list(LEFT_OUT), "log_hash": list(HASHED)}, hidden)
    return monitor_log(view(plain), known), monitor_log(view(hidden), replace(known, private=private)), hidden, known


def test_hashed_categories_drift_by_exactly_as_much_as_plain_ones(reports):
    plain, hidden, _, _ = reports
    sizes = [{d.column: (round(d.psi, 12), d.p_value, d.missing) for d in found.drift} for found in (plain, hidden)]
    for column in ("sex", "marital_status", "education"):
        assert sizes[0][column] == sizes[1][column]
    assert sizes[1]["sex"][0] > 0.2 and "sex" in hidden.summary()["alerts"]
    assert any("female" in r or "male" in r for r in hidden.reasons if r.startswith("sex"))  # told by its name


def test_what_cannot_be_followed_is_said_and_never_taken_for_missing(reports):
    _, hidden, _, known = reports
    assert {d.column for d in hidden.drift if d.side == "input"} == set(known.inputs.columns) - {"age", "ancestry"}
    assert not any("missing" in reason and ("age" in reason or "ancestry" in reason) for reason in hidden.reasons)
    words = " ".join(hidden.notes)
    assert "ancestry (left out of the log)" in words and "age (hashed, and only categories" in words


def test_without_the_salt_hashes_are_not_followed_and_that_is_said(reports, tmp_path):
    _, _, hidden, known = reports
    away = replace(known, private=Private(LEFT_OUT, HASHED, None))
    found = monitor_log(view(hidden), away)
    assert not {"sex", "marital_status", "age"} & {d.column for d in found.drift}
    assert any("the log's salt is not here" in note for note in found.notes)


def test_with_another_salt_all_categories_are_new(reports):
    _, _, hidden, known = reports
    found = monitor_log(view(hidden), replace(known, private=Private(LEFT_OUT, HASHED, b"another")))
    assert "'(other)': 0.0% to 100.0%" in {d.column: d.moved for d in found.drift}["marital_status"]


def test_where_every_column_is_private_the_predictions_are_still_followed(reports):
    _, _, hidden, known = reports
    private = Private(exclude=tuple(known.inputs.columns))
    found = monitor_log(view(hidden), replace(known, private=private))
    assert {d.side for d in found.drift} == {"output"}
    assert monitor_log(view(hidden), replace(known, private=private, outputs=None)).drift == ()


def test_reading_what_is_private_makes_no_salt(tmp_path):
    assert read_private({"log_hash": ["sex"]}, tmp_path / "log").salt is None and list(tmp_path.iterdir()) == []
    assert read_private({}, tmp_path / "log") == Private()


def test_codes_are_made_of_the_values_that_the_service_hashed(reports):
    _, _, _, known = reports
    made = codes(Private(hashed=("sex",), salt=b"s"), known.signature, known.inputs)["sex"]
    assert sorted(made.values()) == sorted(known.inputs["sex"].categories) and all(len(code) == 24 for code in made)
