"""The client's side of the HTTP contract: no digit is lost, and a refusal is a sentence."""

import json

import numpy as np
import pandas as pd
import pytest

from mlworkbench.core.errors import InputError, MissingPart, WorkbenchError
from mlworkbench.deployment.client import PART, Client, label_records, parts, refusal, rows_of


def sent(frame: pd.DataFrame) -> list[dict]:
    return json.loads(json.dumps(rows_of(frame), allow_nan=False))


def test_every_digit_of_a_number_is_sent():
    values = np.random.default_rng(0).lognormal(0, 9, 500)
    assert [row["x"] for row in sent(pd.DataFrame({"x": values}))] == values.tolist()
    single = values.astype("float32")
    assert np.array_equal(np.array([r["x"] for r in sent(pd.DataFrame({"x": single}))], dtype="float32"), single)


@pytest.mark.parametrize("column", [
    pd.Series([1.5, np.nan]), pd.Series([1, None], dtype="Int64"), pd.Series([True, None], dtype="boolean"),
    pd.Series(["a", None]), pd.Series(["a", np.nan], dtype=object), pd.Categorical(["a", None]),
    pd.to_datetime(["2026-01-31T08:00:00.123456", None]), pd.Categorical([3, None]),
    pd.to_datetime(["2026-01-31T08:00:00+02:00", None]),
], ids=lambda c: str(c.dtype))  # fmt: skip
def test_a_missing_value_is_null_whatever_the_dtype(column):
    first, second = sent(pd.DataFrame({"x": column}))
    assert second == {"x": None} and first["x"] is not None


def test_dates_are_iso_8601_and_names_are_text():
    row = sent(pd.DataFrame({0: pd.to_datetime(["2026-01-31T08:00:00+02:00"]), "flag": [True], "n": [7]}))[0]
    assert row == {"0": "2026-01-31T08:00:00+02:00", "flag": True, "n": 7}


def test_rows_are_sent_in_parts_and_in_order():
    assert [list(p) for p in parts(list(range(5)), 2)] == [[0, 1], [2, 3], [4]]
    assert list(parts([], 2)) == []


@pytest.mark.parametrize("labels", [
    {"p1": 1, "p2": 0}, pd.Series([1, 0], index=["p1", "p2"]), pd.DataFrame({"prediction_id": ["p1", "p2"], "label": [1, 0]}),
    [{"prediction_id": "p1", "label": 1}, {"prediction_id": "p2", "label": 0}],
], ids=["mapping", "series", "frame", "records"])  # fmt: skip
def test_labels_come_in_four_forms(labels):
    found = json.loads(json.dumps(label_records(labels)))
    assert found == [{"prediction_id": "p1", "label": 1}, {"prediction_id": "p2", "label": 0}]


@pytest.mark.parametrize(("status", "kind", "code"), [(400, InputError, 2), (413, InputError, 2),
                                                      (503, MissingPart, 3), (500, WorkbenchError, 4)])  # fmt: skip
def test_a_refusal_has_the_exit_code_of_its_cause(status, kind, code):
    fault = {"row": 0, "column": "age", "problem": "must be a number", "got": "forty"}
    error = refusal("predict", status, {"errors": [fault] * 5})
    assert type(error) is kind and error.exit_code == code
    assert "row 0 column 'age': must be a number (got 'forty')" in str(error) and "(and 2 more)" in str(error)


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, int]]:
    """Requests to a stand-in for a service: route, and how many entries; `asked.limits` is what it says of itself."""

    class Asked(list):
        limits: dict | None = None

    seen = Asked()

    def answer(self, http, verb, route, body=None):
        entries = next(iter(body.values())) if body else []
        seen.append((route, len(entries)))
        if route == "/model" and seen.limits is None:
            raise InputError("not yours to read")
        if route == "/model":
            return {"limits": seen.limits}
        return {"predictions": entries, "prediction_ids": entries, "unknown": []}

    monkeypatch.setattr(Client, "_send", answer)
    return seen


def test_parts_are_no_larger_than_the_service_takes_and_it_is_asked_once(asked):
    asked.limits = {"max_rows": 4}
    client = Client("http://127.0.0.1:9")
    assert client.predict([{"x": i} for i in range(10)])["prediction"].tolist() == [{"x": i} for i in range(10)]
    assert client.feedback({f"p{i}": 1 for i in range(5)})["accepted"] == 5
    assert asked == [("/model", 0), *(("/predict", n) for n in (4, 4, 2)), ("/feedback", 4), ("/feedback", 1)]


@pytest.mark.parametrize("limits", [{"max_rows": 10_000}, {}, None])
def test_without_a_smaller_limit_parts_are_of_the_usual_size(limits, asked):
    asked.limits = limits
    Client("http://127.0.0.1:9").predict([{}] * (PART + 1))
    assert asked[1:] == [("/predict", PART), ("/predict", 1)]


def test_a_service_that_is_not_there_is_not_ready(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert not Client("http://127.0.0.1:9").ready()
