"""Slices, fairness, explanation and robustness take any task and any form of rows, or say why not."""

import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.core.results import plain
from mlworkbench.evaluation.explanation import explain_rows, explanation_section
from mlworkbench.evaluation.fairness import fairness_section
from mlworkbench.evaluation.outcomes import predict_outcome
from mlworkbench.evaluation.robustness import robustness_section
from mlworkbench.evaluation.sections import Case
from mlworkbench.evaluation.slices import slices_section
from mlworkbench.model.loading import wrap

ROWS = 240
R = np.random.default_rng(0)
X = R.normal(size=(2 * ROWS, 4))
SIGN = (X[:, 0] + 0.5 * X[:, 1] + R.normal(0, 0.5, 2 * ROWS) > 0).astype(int)
THREE = np.array(["low", "mid", "top"])[np.digitize(X[:, 0] + R.normal(0, 0.4, 2 * ROWS), [-0.6, 0.6])]
WORDS = np.array(["good fine sun", "bad rain cold", "town tree sun", "rain bad tree"])


def frame():
    """Every kind of column, some missing, names with spaces and beyond ASCII."""
    table = pd.DataFrame(X, columns=["größe in m", "b", "c", "d"])
    table["town"] = pd.Categorical(R.choice(["Ulm", "Köln"], len(X)))
    table["maybe"] = pd.array(R.choice([1, 2, 3], len(X)), dtype="Int64")
    table.loc[::17, "maybe"] = pd.NA
    table["when"] = pd.date_range("2024-01-01", periods=len(X))
    table["flag"] = R.random(len(X)) < 0.5
    table["note"] = R.choice(WORDS, len(X)) + pd.Series(range(len(X))).astype(str).to_numpy()
    return table


def mixed():
    table = frame()
    taken = make_column_transformer(
        ("passthrough", ["größe in m", "b"]), (OneHotEncoder(handle_unknown="ignore"), ["town", "flag"]),
        (TfidfVectorizer(), "note"),
    )
    return make_pipeline(taken, LogisticRegression(max_iter=300)), table, SIGN


def text():
    words = pd.Series(WORDS[R.integers(0, 4, len(X))] + " " + pd.Series(R.integers(0, 99, len(X))).astype(str), name="text")
    return make_pipeline(TfidfVectorizer(), LogisticRegression()), words, np.where(words.str.contains("bad"), "n", "y")


TEXTS = [(i % 9, word) for i, word in enumerate(np.where(SIGN == 1, "sun", np.where(X[:, 2] > 0, "rain", "bad")).tolist())]
KINDS = {
    "mixed frame": mixed,
    "array without names": lambda: (HistGradientBoostingClassifier(max_iter=10), X, THREE),
    "decision function only": lambda: (LinearSVC(), X.astype("float32"), SIGN),
    "sparse": lambda: (LogisticRegression(), csr_matrix(np.where(abs(X) < 0.3, 0, X)), SIGN.astype(bool)),
    "text": text,
    "list of texts": lambda: (make_pipeline(TfidfVectorizer(), LogisticRegression()), [f"{w} {i}" for i, w in TEXTS], SIGN),
    "records": lambda: (make_pipeline(DictVectorizer(), LogisticRegression()), [{"n": i, w: 1} for i, w in TEXTS], SIGN),
    "integers": lambda: (LogisticRegression(), (10 * X).astype(int), SIGN),
    "regression": lambda: (LinearRegression(), pd.DataFrame(X, columns=list("abcd")), X[:, 0] + R.normal(size=len(X))),
    "several numbers": lambda: (Ridge(), X, np.stack([X[:, 0] + R.normal(size=len(X)), X[:, 1]], axis=1)),
    "several labels": lambda: (OneVsRestClassifier(LogisticRegression()), X, np.stack([SIGN, 1 - SIGN, SIGN], axis=1)),
    "several classes": lambda: (MultiOutputClassifier(LogisticRegression()), X, np.stack([THREE, THREE[::-1]], axis=1)),
    "outliers": lambda: (IsolationForest(n_estimators=20, random_state=0), X, None),
    "known outliers": lambda: (IsolationForest(n_estimators=20, random_state=0), X, np.where(abs(X).max(axis=1) > 2.4, -1, 1)),
    "clusters": lambda: (KMeans(3, n_init=1, random_state=0), X, None),
    "transformer": lambda: (PCA(2, random_state=0), pd.DataFrame(X, columns=list("abcd")), None),
}


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    estimator, rows, y = KINDS[request.param]()

    def part(values, which):
        return values.iloc[which] if hasattr(values, "iloc") else values[which]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(part(rows, slice(ROWS)), None if y is None or request.param == "known outliers" else y[:ROWS])
    model = wrap(estimator)
    held = part(rows, slice(ROWS, None))
    truth = None if y is None else np.asarray(y)[ROWS:]
    context = pd.DataFrame({"group": R.choice(["left", "right"], ROWS), "rare": ["one"] * 3 + ["rest"] * (ROWS - 3)})
    return Case(model, held, truth, predict_outcome(model, held, truth), context, resamples=20)


def check(section):
    assert section.evidence, "there is always something to show"
    for piece in section.evidence:
        assert piece.html()
        assert (piece.table is not None) + bool(piece.svg) + bool(piece.text) == 1
    assert all(isinstance(v, float) for v in section.findings.values())
    json.dumps(plain(section.facts), allow_nan=False)
    assert all(isinstance(text, str) and text.endswith(".") for text in section.concerns)


def test_slices_of_any_task_and_form(case):
    section = slices_section(case, ["group"], values=[("rare", "one")])
    check(section)
    if case.outcome.task not in ("cluster",) and section.findings:
        few = [v for k, v in section.findings.items() if k.startswith('slice("rare", "one")')]
        assert few and all(math.isnan(v) for v in few), "three rows are not enough to say"


def test_nothing_of_a_value_that_few_rows_hold_is_written(case):
    section = slices_section(case, ["group", "rare"])
    written = json.dumps([plain(section.facts), list(section.findings)]) + "".join(e.html() for e in section.evidence)
    assert '"one"' not in written and "rare: one" not in written
    assert all(math.isnan(v) for k, v in section.findings.items() if k.startswith('slice("rare").') and k.endswith(".gap"))


def test_an_edge_of_one_person_is_rounded_and_columns_left_out_are_not_searched():
    estimator, rows, y = mixed()
    held = rows[ROWS:].assign(pay=20_001.0 + 137 * np.arange(ROWS), person=np.repeat(range(ROWS // 40), 40))
    model = wrap(estimator.fit(rows[:ROWS], y[:ROWS]))
    made = Case(model, held[rows.columns], y[ROWS:], predict_outcome(model, held[rows.columns], y[ROWS:]),
                held[["pay", "person"]], resamples=0)
    section = slices_section(made, ["pay"], leave_out=["person", "when"])
    labels = [s["segment"] for s in section.facts["segments"] if s["column"] == "pay"]
    assert labels == ["<= 26,400", "26,400 to 33,000", "33,000 to 39,600", "39,600 to 46,200", "> 46,200"]
    assert "person" not in str(section.facts) and not any("person" in path or "when" in path for path in section.findings)
    assert any("person" in path for path in slices_section(made, ["person"], leave_out=["person"]).findings)


def test_fairness_of_any_task_and_form(case):
    section = fairness_section(case, ["group", "rare"])
    check(section)
    unknown = [v for k, v in section.findings.items() if k.startswith('fairness("rare")')]
    assert all(math.isnan(v) for v in unknown)
    if section.findings:
        assert all("one (" not in e.html() for e in section.evidence)


def test_explanation_of_any_task_and_form(case):
    section = explanation_section(case)
    check(section)
    if isinstance(case.X, list):
        assert ("records" if isinstance(case.X[0], dict) else "one column") in section.evidence[0].text


def test_robustness_of_any_task_and_form(case):
    check(robustness_section(case))


def test_rows_are_explained_in_any_form_with_columns(case):
    if len(getattr(case.X, "shape", ())) < 2:
        with pytest.raises(InputError, match="columns"):
            explain_rows(case.model, *(case.X.iloc[:n] if hasattr(case.X, "iloc") else case.X[:n] for n in (2, 9)))
        return
    rows, behind = (case.X.iloc[part] if hasattr(case.X, "iloc") else case.X[part] for part in (slice(2), slice(5, 14)))
    told = explain_rows(case.model, rows, behind, evaluations=40)
    columns = told.columns[:-2]
    assert len(columns) == case.X.shape[1]
    np.testing.assert_allclose(told[columns].sum(axis=1), told["output"] - told["base"], atol=1e-9)


def test_equal_input_gives_equal_sections():
    estimator, rows, y = mixed()
    model = wrap(estimator.fit(rows[:ROWS], y[:ROWS]))
    held = rows[ROWS:]
    made = [Case(model, held, y[ROWS:], predict_outcome(model, held, y[ROWS:]), resamples=20, seed=3) for _ in range(2)]
    for section in (slices_section, lambda c: fairness_section(c, ["town"]), explanation_section, robustness_section):
        one, two = (section(m) for m in made)
        assert json.dumps(plain(one.facts)) == json.dumps(plain(two.facts))
        assert [e.html() for e in one.evidence] == [e.html() for e in two.evidence]
        np.testing.assert_equal(dict(one.findings), dict(two.findings))


def test_damage_is_shown_by_ranking_and_by_decisions():
    random = np.random.default_rng(2)
    X = pd.DataFrame({"x": random.normal(size=1200)})
    y = (X["x"] + random.normal(0, 0.5, 1200) > 1.5).astype(int)
    model = wrap(LogisticRegression().fit(X[:600], y[:600]))
    held, truth = X[600:], y[600:].to_numpy()
    section = robustness_section(Case(model, held, truth, predict_outcome(model, held, truth), resamples=20))
    table = section.evidence[-1].table.set_index(["damage", "metric"])
    assert {metric for _, metric in table.index} == {"roc auc", "balanced accuracy"} and len(table) == 6
    moved = table.loc["shift"]
    assert moved.loc["roc auc", "slight"] == moved.loc["roc auc", "severe"]  # all rows move alike: the ranking stays
    assert abs(moved.loc["balanced accuracy", "slight"] - moved.loc["balanced accuracy", "severe"]) > 0.03
    assert section.findings['robustness("shift").roc_auc.worst_drop'] == pytest.approx(0)
    assert section.findings['robustness("shift").balanced_accuracy.worst_drop'] != 0
    assert section.facts["metrics"] == ["roc_auc", "balanced_accuracy"]


def test_the_closest_column_is_named():
    model = wrap(LinearRegression().fit(pd.DataFrame(X, columns=["ab", "cd", "ef", "gh"]), X[:, 0]))
    held = pd.DataFrame(X, columns=["ab", "cd", "ef", "gh"])
    made = Case(model, held, X[:, 0], predict_outcome(model, held, X[:, 0]), resamples=0)
    for ask in (lambda: slices_section(made, ["a b"]), lambda: fairness_section(made, ["a b"])):
        with pytest.raises(NotFound, match="Did you mean 'ab'"):
            ask()
