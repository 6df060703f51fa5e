"""The whole page: on planted problems it names each one, on clean data it names none; every task has a page."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier

import mlworkbench as mlw
from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.evaluation.result import read_evaluation


def people(rows: int, seed: int) -> tuple[pd.DataFrame, pd.Series]:
    """Four numbers and two groups; the answer follows a logistic law of the numbers, alike in every group."""
    random = np.random.default_rng(seed)
    X = pd.DataFrame(random.normal(size=(rows, 4)), columns=["income", "age", "debt", "visits"])
    X["region"] = random.choice(["north", "south", "west"], rows)
    X["sex"] = random.choice(["f", "m"], rows)
    chance = 1 / (1 + np.exp(-(1.4 * X["income"] - 1.1 * X["debt"] + 0.5 * X["age"])))
    return X, pd.Series(np.where(random.random(rows) < chance, "yes", "no"), name="bought")


def fitted(X, y, columns=("income", "age", "debt", "visits")):
    return LogisticRegression().fit(X[list(columns)], y)


def judged(model, X, y, train=None, columns=("income", "age", "debt", "visits"), **options):
    """The evaluation of a model of some columns; the others are context."""
    rest = [c for c in X if c not in columns]
    own = {"context": X[rest] if rest else None, "train": train, "resamples": 300, "skip": [], **options}
    return mlw.evaluate(model, X[list(columns)], y, **own)


def named(found, *words):
    """Whether one concern has all the words."""
    return any(all(word in text for word in words) for text in found.concerns)


def test_clean_data_raise_no_concern(size, measured):
    draws, loud = size("clean_pages"), []
    for seed in range(draws):
        train, held = people(1500, 2 * seed), people(1500, 2 * seed + 1)
        found = judged(fitted(*train), *held, train=(train[0], train[1]), sensitive=["sex"], resamples=200,
                       skip=[] if seed < 2 else ["explanation"])
        loud += [(seed, text) for text in found.concerns]
    measured(pages=draws, concerns=len(loud))
    assert len({seed for seed, _ in loud}) <= max(1, 0.1 * draws), loud


def test_a_leaking_column_is_named():
    train, held = people(1500, 0), people(1500, 1)
    for X, y in (train, held):
        X["refund"] = (y == "yes") * 1.0 + np.random.default_rng(5).normal(0, 0.01, len(X))
    columns = ("income", "age", "debt", "visits", "refund")
    found = judged(fitted(*train, columns), *held, train=train, columns=columns, skip=["explanation", "robustness"])
    assert named(found, "refund"), found.concerns


def test_rows_on_both_sides_of_the_split_are_named():
    train, held = people(1500, 0), people(1200, 1)
    X = pd.concat([held[0], train[0][:300]], ignore_index=True)
    y = pd.concat([held[1], train[1][:300]], ignore_index=True)
    found = judged(fitted(*train), X, y, train=train, skip=["explanation", "robustness"])
    assert named(found, "300", "training"), found.concerns


def test_one_bad_segment_is_named():
    train, held = people(3000, 0), people(3000, 1)
    west = (held[0]["region"] == "west") & (held[0]["visits"] > 0)
    held[1][west] = np.where(held[1][west] == "yes", "no", "yes")
    found = judged(fitted(*train), *held, train=train, skip=["explanation", "robustness"])
    assert named(found, "region", "west"), found.concerns


def test_a_mis_calibrated_model_is_named():
    train, held = people(600, 0), people(2000, 1)
    columns = ["income", "age", "debt", "visits"]
    eager = HistGradientBoostingClassifier(max_iter=300, max_leaf_nodes=31, min_samples_leaf=2).fit(train[0][columns], train[1])
    found = judged(eager, *held, train=train, skip=["explanation", "robustness", "slices"])
    assert named(found, "too sure"), found.concerns


def test_a_model_that_learned_by_heart_is_named():
    train, held = people(400, 0), people(1000, 1)
    columns = ["income", "age", "debt", "visits"]
    noisy = train[1].where(np.random.default_rng(3).random(400) > 0.35, "no")
    known = pd.Series(noisy.sample(frac=1, random_state=0).values)
    by_heart = HistGradientBoostingClassifier(max_iter=200, min_samples_leaf=1).fit(train[0][columns], known)
    found = judged(by_heart, *held, train=(train[0], known), skip=["explanation", "robustness", "slices"])
    assert named(found, "training"), found.concerns


def test_a_biased_group_is_named():
    train, held = people(3000, 0), people(3000, 1)
    shift = {"f": -1.5, "m": 1.5}
    for X, _ in (train, held):
        X["score"] = X["sex"].map(shift) + X["income"]
    columns = ("score", "debt")
    biased = LogisticRegression().fit(train[0][list(columns)], np.where(train[0]["score"] - train[0]["debt"] > 0, "yes", "no"))
    found = judged(biased, *held, columns=columns, sensitive=["sex"], skip=["explanation", "robustness", "slices"])
    assert named(found, "sex"), found.concerns


def test_a_model_no_better_than_guessing_is_named():
    X, _ = people(1000, 0)
    y = pd.Series(np.random.default_rng(1).choice(["yes", "no"], 1000))
    found = judged(fitted(X[:500], y[:500]), X[500:], y[500:], skip=["explanation", "robustness"])
    assert named(found, "guess"), found.concerns


def test_a_future_that_was_trained_on_and_a_person_on_both_sides_are_named():
    train, held = people(1000, 0), people(1000, 1)
    for (X, _), start in ((train, "2024-06-01"), (held, "2024-01-01")):
        X["day"] = pd.Timestamp(start) + pd.to_timedelta(np.arange(len(X)) // 8, unit="D")
        X["person"] = np.arange(len(X)) + (0 if start < "2024-05" else 900)
    found = judged(fitted(*train), *held, train=train, time="day", ids=["person"], skip=["explanation", "robustness", "slices"])
    assert named(found, "day") and named(found, "person"), found.concerns


TASKS = {
    "multiclass": (RandomForestClassifier(10, random_state=0), lambda X: X["age"].round().clip(-1, 1)),
    "multilabel": (MultiOutputClassifier(LogisticRegression()), lambda X: X[["income", "debt"]].gt(0)),
    "regression": (LinearRegression(), lambda X: X["age"] ** 2),
    "multitarget": (LinearRegression(), lambda X: X[["age", "debt"]] + 1),
    "outlier": (IsolationForest(n_estimators=20, random_state=0), lambda X: None),
    "cluster": (KMeans(3, n_init=1, random_state=0), lambda X: None),
    "transform": (PCA(2), lambda X: None),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_page_without_an_analysis_that_failed(task, tmp_path):
    X = people(400, 0)[0][["income", "age", "debt", "visits"]]
    model, answers = TASKS[task]
    y = answers(X)
    model.fit(X, y)
    found = mlw.evaluate(model, X, y, resamples=50, skip=[])
    assert found.task == task and len(found.metrics) and found.evidence()
    assert {s.name: s.facts["not_made"] for s in found.sections if "not_made" in s.facts} == {}
    back = read_evaluation(found.save(tmp_path / "evaluation.json"))
    assert back.summary() == found.summary() and back.headline() == found.headline()
    assert found.card.startswith("---\n") and ElementTree.fromstring(found.files()["evaluate.junit.xml"]).tag


def test_the_page_is_equal_twice_and_holds_no_row():
    train, held = people(800, 0), people(800, 1)
    options = {"train": train, "sensitive": ["sex"], "costs": {"fp": 1, "fn": 3},
               "against": {"small": fitted(*train, ("income",))}}
    first, second = (judged(fitted(*train), *held, **options) for _ in range(2))
    assert first.to_dict() == second.to_dict() and first.files() == second.files()
    assert [e.html() for e in first.evidence()] == [e.html() for e in second.evidence()]
    shown = json.dumps(first.to_dict())
    values = held[0]["income"]
    assert not [v for v in values if repr(float(v)) in shown]


def test_the_gate_reaches_into_every_chapter():
    train, held = people(800, 0), people(800, 1)
    gate = ["roc_auc.low >= 0.7", 'slice("sex").accuracy.gap <= 0.3', "train.roc_auc.gap <= 0.1", "cost.high <= 2",
            'against("small").roc_auc.difference.low >= -0.1', 'robustness("noise").roc_auc.drop <= 0.4',
            "latency_p95_ms <= 5000", 'importance("income") >= 0', "cross_validation.roc_auc.mean >= 0.6",
            "threshold <= 0.9", "checks.duplicates <= 10"]
    found = judged(fitted(*train), *held, train=train, gate=gate, costs={"fp": 1, "fn": 3}, folds=3,
                   against={"small": fitted(*train, ("income",))})
    assert found.reasons == () and found.gate["holds"].all() and len(found.gate) == len(gate)
    assert found.findings()['slice("sex").accuracy.gap'] == found.finding('slice("sex").accuracy.gap')


BAD = {
    "a wrong sensitive column": ({"sensitive": ["sx"]}, NotFound, "Did you mean 'sex'"),
    "a sliced column that is not there": ({"gate": ['slice("rigion").accuracy.gap <= 1']}, NotFound, "region"),
    "a gate that does not parse": ({"gate": ["roc_auc >== 0.8"]}, InputError, "character"),
    "a gate on what was not given": ({"gate": ["validation.roc_auc >= 0.8"]}, InputError, "validation"),
    "a gate on what is skipped": ({"gate": ['slice("sex").accuracy.gap <= 1'], "skip": ["slices"]}, InputError, "in skip"),
    "a damage nobody knows": ({"gate": ['robustness("mising").roc_auc.drop <= 1']}, NotFound, "Did you mean 'missing'"),
    "an analysis nobody knows": ({"skip": ["slicing"]}, NotFound, "slices"),
    "costs of a right answer above a wrong one's": ({"costs": {"fp": 0, "fn": 1, "tn": 5}}, InputError, "costs"),
    "a cost nobody knows": ({"costs": {"fpp": 1}}, InputError, "fp"),
    "context of another length": ({"context": pd.DataFrame({"a": [1]})}, InputError, "row"),
    "training rows without answers": ({"train": (people(10, 0)[0], people(9, 0)[1])}, InputError, "train"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_sentence(case):
    options, kind, told = BAD[case]
    X, y = people(300, 0)
    with pytest.raises(kind, match=told):
        judged(fitted(X, y), X, y, **options)


def test_a_model_against_itself_differs_in_nothing_whatever_errors_cost():
    train, held = people(800, 0), people(800, 1)
    model = fitted(*train)
    found = judged(model, *held, against={"same": model}, costs={"fp": 1, "fn": 5},
                   skip=["explanation", "robustness", "slices", "checks"])
    same = found.section("comparison").findings
    assert {v for k, v in same.items() if k.endswith(".difference")} == {0.0} and found.threshold["value"] < 0.5
