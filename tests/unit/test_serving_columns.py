"""Columns under each policy: what is converted, what is never guessed; lists; open forms; what a model is handed."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.mixture import GaussianMixture
from sklearn.multioutput import MultiOutputClassifier
from sklearn.preprocessing import StandardScaler

from mlworkbench.model.inputs import form_of, profile_table, request_rows
from mlworkbench.model.signature import infer_signature
from mlworkbench.serving.columns import Column
from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.methods import plain_list
from mlworkbench.serving.openapi import build_openapi, example_row
from mlworkbench.serving.predictor import Predictor, compare, proves
from mlworkbench.serving.signature import Signature

CONVERTED = [
    ("integer", "int64", "12", 12), ("integer", "int64", " -3 ", -3), ("integer", "int64", "+4.0", 4),
    ("integer", "int64", "7.", 7),
    ("number", "float64", "1.5", 1.5), ("number", "float64", "-2", -2.0), ("number", "float64", "1e-3", 0.001),
    ("number", "float64", ".5", 0.5), ("string", "str", 12, "12"), ("string", "str", -1, "-1"), ("boolean", "bool", "True", True),
    ("boolean", "bool", " false ", False), ("boolean", "bool", 0, False), ("boolean", "bool", 1, True),
]
GUESSES = [
    ("integer", "int64", "12.5"), ("integer", "int64", "1e3"), ("integer", "int64", "1,200"), ("integer", "int64", "0x1f"),
    ("integer", "int64", ""), ("integer", "int64", True), ("integer", "int8", "300"), ("integer", "int64", "9" * 400),
    ("integer", "int64", "١٢"), ("number", "float64", "1,5"), ("number", "float64", "1_000"), ("number", "float64", "nan"),
    ("number", "float64", "-inf"), ("number", "float64", "50 %"), ("number", "float64", "1e999"), ("number", "float64", ""),
    ("number", "float64", False), ("number", "float64", [1.0]), ("string", "str", 12.5), ("string", "str", 12.0),
    ("string", "str", True), ("string", "str", ["a"]), ("boolean", "bool", "yes"), ("boolean", "bool", "0"),
    ("boolean", "bool", 2), ("boolean", "bool", 1.0), ("datetime", "datetime64[us]", 1_700_000_000),
    ("datetime", "datetime64[us]", "31/01/2026"), ("datetime", "datetime64[us]", "2026-01-31T08:00:00Z"),
]


def checked(column: Column, value: object):
    return Signature([column]).check([{column.name: value}])


@pytest.mark.parametrize(("kind", "dtype", "value", "expected"), CONVERTED)
def test_a_coercing_column_converts_what_reads_in_one_way_and_flags_it(kind, dtype, value, expected):
    found = checked(Column("c", kind, dtype, policy="coerce"), value)
    assert found.errors == [] and found.columns["c"] == [expected] and type(found.columns["c"][0]) is type(expected)
    assert found.flags == {0: ["coerced:c"]}
    for policy in ("flag", "reject"):
        assert len(checked(Column("c", kind, dtype, policy=policy), value).errors) == 1


@pytest.mark.parametrize(("kind", "dtype", "value"), GUESSES)
def test_a_coercing_column_never_guesses(kind, dtype, value):
    (error,) = checked(Column("c", kind, dtype, policy="coerce"), value).errors
    assert error["column"] == "c" and error["problem"].startswith("must")


def test_a_coerced_value_is_held_against_the_range_and_a_good_one_is_not_flagged():
    age = Column("age", "integer", "int64", minimum=0, maximum=99, policy="coerce")
    found = Signature([age]).check([{"age": "140"}, {"age": 40}, {"age": "x"}, {"age": 40.0}])
    assert found.flags == {0: ["coerced:age", "out_of_range:age"]} and found.bad == {2}


@pytest.mark.parametrize(("value", "told"), [
    ([[1, 2], [3, 4]], ""), ([[1, 2]], "2 × 2, not 1"), ([1, 2], "list"), ("x", "lists, 2 deep"), ([[1, 2], [3, "x"]], "number"),
    ([[1, 2], [3, float("nan")]], "finite"), ([[1, 2], [3, None]], "number"), ([[1, 2], [3, [4]]], "number"),
])
def test_a_list_keeps_its_shape_and_its_items_their_type(value, told):
    problems = [e["problem"] for e in checked(Column("p", "list", "float64", items="number", shape=(2, 2)), value).errors]
    assert problems == [] if not told else told in problems[0]


def test_items_of_lists_are_flagged_refused_and_coerced_as_values_are():
    tags = {"name": "tags", "type": "list", "dtype": "object", "items": "string", "shape": (None,), "categories": ("a", "b")}
    rows = [{"tags": ["a", "b"]}, {"tags": ["a", "z"]}, {"tags": []}]
    assert Signature([Column(**tags)]).check(rows).flags == {1: ["unseen_category:tags"]}
    assert Signature([Column(**tags, policy="reject")]).check(rows).bad == {1}
    sizes = Column("sizes", "list", "object", items="integer", shape=(None,), policy="coerce", minimum=0, maximum=9)
    found = Signature([sizes]).check([{"sizes": ["1", 2]}, {"sizes": [77]}])
    assert found.columns["sizes"] == [[1, 2], [77]] and found.flags == {0: ["coerced:sizes"], 1: ["out_of_range:sizes"]}


@pytest.mark.parametrize("faulty", [
    {"type": "list", "dtype": "object"}, {"type": "list", "dtype": "object", "items": "list", "shape": (2,)},
    {"type": "number", "dtype": "float64", "items": "number", "shape": (2,)},
    {"type": "number", "dtype": "float64", "policy": "guess"},
])
def test_a_column_that_contradicts_itself_is_refused(faulty):
    with pytest.raises(ServiceError):
        Column("c", **faulty)


def test_of_an_open_form_an_absent_column_is_no_fault_and_an_unknown_one_is():
    matrix = csr_matrix(np.diag([1.0, 2, 3, 4]))
    model = LogisticRegression().fit(matrix, [0, 0, 1, 1])
    signature = infer_signature(model, matrix)
    assert signature.input == "sparse" and all(c.nullable for c in signature.columns)
    rows = request_rows(signature, matrix)
    assert rows == [{"x0": 1.0}, {"x1": 2.0}, {"x2": 3.0}, {"x3": 4.0}]
    assert Predictor(model, signature).predict([*rows, {}])["predictions"][:4] == model.predict(matrix).tolist()
    (error,) = signature.check([{"x9": 1}]).errors
    assert "unknown column" in error["problem"] and "Did you mean" in error["problem"]


def test_thousands_of_unknown_names_are_told_without_looking_for_the_closest_of_each():
    signature = Signature([Column(f"x{i}", "number", "float64", nullable=True) for i in range(5000)], input="sparse")
    errors = signature.check([{f"y{i}": 1 for i in range(2000)}]).errors
    assert len(errors) == 1000 and errors.untold == 1000 and errors.told()[-1]["problem"].startswith("1000 more faults")
    assert sum("Did you mean" in e["problem"] or "Known:" in e["problem"] for e in errors) == 20


def test_decision_scores_are_answered_where_there_are_no_probabilities_and_proved():
    X = pd.DataFrame({"a": [0.0, 1, 2, 3], "b": [1.0, 0, 1, 0]})
    for model, task in ((RidgeClassifier().fit(X, [0, 0, 1, 1]), "binary"), (IsolationForest(n_estimators=5).fit(X), "outlier")):
        signature = infer_signature(model, X)
        rows = request_rows(signature, X)
        answer = Predictor(model, signature).predict(rows)
        assert signature.task == task and answer["decision"] == model.decision_function(X).tolist()
        golden = {"rows": rows, **answer}
        assert proves(compare(golden, answer))
        assert not proves(compare(golden, {**answer, "decision": [s + 1e-6 for s in answer["decision"]]}))
        assert not proves(compare(golden, {k: v for k, v in answer.items() if k != "decision"}))
        skipped = Predictor(model, signature).predict([{"a": "x", "b": 1}, *rows], on_error="skip")
        assert skipped["decision"][0] is None and skipped["decision"][1:] == answer["decision"]


def test_a_mixture_gives_the_probabilities_of_its_components():
    X = pd.DataFrame({"a": [0.0, 0.1, 5, 5.1], "b": [1.0, 0.9, 7, 7.2]})
    model = GaussianMixture(2, random_state=0).fit(X)
    signature = infer_signature(model, X)
    answer = Predictor(model, signature).predict(request_rows(signature, X))
    assert signature.task == "cluster" and "classes" not in answer
    assert answer["probabilities"] == model.predict_proba(X).tolist()


def test_a_shipped_threshold_decides_and_the_probabilities_stay():
    X = pd.DataFrame({"a": np.arange(20.0)})
    y = np.where(X["a"] > 9, "yes", "no")
    model, rows = LogisticRegression().fit(X, y), [{"a": float(i)} for i in range(20)]
    signature = infer_signature(model, X)
    usual = Predictor(model, signature).predict(rows)
    for positive, place in (("yes", 1), ("no", 0)):
        answer = Predictor(model, signature, threshold={"positive": positive, "value": 0.9}).predict(rows)
        assert answer["probabilities"] == usual["probabilities"]
        expected = [positive if p[place] >= 0.9 else {"yes": "no", "no": "yes"}[positive] for p in usual["probabilities"]]
        assert answer["predictions"] == expected != usual["predictions"]


def test_a_transformer_answers_its_outputs_by_name():
    X = pd.DataFrame({"a": [0.0, 1], "größe": [1.0, 3]})
    model = StandardScaler().fit(X)
    signature = infer_signature(model, X)
    assert signature.outputs == ("a", "größe") and signature.answer == "list"
    assert Predictor(model, signature).predict([{"a": 0, "größe": 1}])["predictions"] == [[-1.0, -1.0]]


def test_labels_of_several_outputs_have_a_pair_of_probabilities_each():
    X = pd.DataFrame({"a": np.arange(10.0)})
    y = np.column_stack([X["a"] > 4, X["a"] > 7]).astype(int)
    model = MultiOutputClassifier(LogisticRegression()).fit(X, y)
    signature = infer_signature(model, X)
    answer = Predictor(model, signature).predict([{"a": 5.0}])
    chances = model.predict_proba(X[5:6])
    assert answer["classes"] == [(0, 1), (0, 1)] and signature.labels is None
    assert answer["probabilities"] == [[chances[0][0].tolist(), chances[1][0].tolist()]]


def test_whatever_a_model_gives_becomes_json():
    missing = [None, float("nan"), pd.NA, pd.NaT, np.float64("inf")]
    odd = np.array([1, "a", *missing, np.int8(3), pd.Timestamp("2026-01-31"), (1, 2)], object)
    assert plain_list(odd) == [1, "a", None, None, None, None, None, 3, "2026-01-31T00:00:00", [1, 2]]
    assert plain_list(np.array(["2026-01-31", "NaT"], dtype="datetime64[D]")) == ["2026-01-31", None]


@pytest.mark.parametrize(("X", "form"), [
    (["a b", "c"], "list"), (pd.Series(["a", "b"], name="text"), "series"), ([{"a": 1}, {"b": 2.5}], "records"),
    (np.zeros((3, 2, 2)), "list"), ([["a"], ["a", "b"]], "list"), ([{"a"}, {"b", "a"}], "list"), (np.eye(3), "array"),
    (csr_matrix(np.eye(3)), "sparse"), (pd.DataFrame({"a": [1]}), "frame"),
])
def test_each_form_goes_to_json_and_comes_back(X, form):
    class Anything:
        """Takes whatever it is given."""

        def predict(self, X):
            return np.zeros(X.shape[0] if hasattr(X, "shape") else len(X))

    assert form_of(X) == form
    signature = infer_signature(Anything(), X)
    rows = request_rows(signature, X)
    found = signature.check(rows)
    assert (found.errors, found.flags, signature.input) == ([], {}, form)
    again = signature.data(found)
    assert request_rows(signature, again) == rows
    assert type(again).__name__.replace("csr_", "") == type(X).__name__.replace("csr_", "") or form == "list"
    assert signature.check([example_row(signature)]).errors == []
    assert build_openapi(signature)["components"]["schemas"]["Row"]["type"] == "object"
    assert list(profile_table(signature, X).columns) == signature.names
