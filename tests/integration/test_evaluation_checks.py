"""Data checks: on clean data nothing is said, and each planted problem is named, over many seeds."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.evaluation.checks import checks_section
from mlworkbench.evaluation.outcomes import predict_outcome
from mlworkbench.evaluation.sections import Case
from mlworkbench.model.loading import wrap


def pipeline(regression=False):
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include=np.number)), (words, make_column_selector(dtype_exclude=np.number))
    )
    return make_pipeline(columns, Ridge() if regression else LogisticRegression(max_iter=300))


def case_of(X, y, train, **fields):
    regression = pd.Series(y).dtype.kind == "f"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = wrap(pipeline(regression).fit(*train), sha256="unasked")
        return Case(model, X, y, predict_outcome(model, X, y), **fields)


def split(X, y, seed, held_out=0.35):
    order = np.random.default_rng(seed).permutation(len(X))
    cut = int(len(X) * held_out)
    parts = [(X.iloc[rows].reset_index(drop=True), y.iloc[rows].reset_index(drop=True)) for rows in (order[:cut], order[cut:])]
    return parts[0], parts[1]


# --- clean data of many kinds ---


def numbers(draw, seed):
    X, y = make_classification(1200, 8, n_informative=4, class_sep=draw.uniform(0.5, 2), random_state=seed)
    return pd.DataFrame(X).add_prefix("c"), pd.Series(y)


def people(draw, seed):
    rows = 1500
    X = pd.DataFrame({
        "age": draw.integers(18, 80, rows), "income": draw.lognormal(10, 1, rows).round(-2),
        "city": draw.choice(["Bern", "Genf", "Zug", "Uri"], rows, p=[0.5, 0.3, 0.15, 0.05]),
        "plan": draw.choice(["a", "b", None], rows, p=[0.6, 0.3, 0.1]), "member": draw.integers(0, 2, rows),
    })
    X["partner"] = np.where(X["plan"] == "a", draw.normal(size=rows), np.nan)  # known of some only, as is natural
    X["spent"] = np.where(draw.random(rows) < 0.2, np.nan, 0.1 * X["income"] * draw.uniform(0.5, 1.5, rows))
    score = 0.05 * (X["age"] - 45) + (X["city"] == "Bern") + 0.7 * X["member"] + draw.logistic(size=rows)
    return X, pd.Series(np.where(score > 1, "yes", "no"))


def survey(draw, seed):
    X = pd.DataFrame(draw.integers(0, 3, (1200, 5)), columns=list("abcde"))
    return X, pd.Series((X["a"] + X["b"] + draw.normal(0, 1, 1200) > 2).astype(int))


def kinds(draw, seed):
    X = pd.DataFrame(draw.normal(size=(1000, 6))).add_prefix("c")
    return X, pd.Series(draw.choice(["a", "b", "c"], 1000, p=[0.6, 0.3, 0.1]))


def line(draw, seed):
    X = pd.DataFrame(draw.normal(size=(900, 6))).add_prefix("c")
    return X, pd.Series(X.to_numpy() @ draw.normal(size=6) + draw.normal(0, draw.uniform(0.3, 2), 900))


CLEAN = [numbers, people, survey, kinds, line]


@pytest.mark.parametrize("make", CLEAN)
def test_clean_data_raise_no_concern(make, size, measured):
    seeds, loud = size("checks_quiet_seeds"), []
    for seed in range(seeds):
        X, y = make(np.random.default_rng(seed), seed)
        held_out, train = split(X, y, seed)
        loud += [(seed, c) for c in checks_section(case_of(*held_out, train, seed=seed), train).concerns]
    measured(seeds=seeds, concerns=len(loud))
    assert len(loud) <= seeds // 200, loud


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris, load_wine, load_diabetes])
def test_well_known_data_raise_no_concern(load):
    X, y = load(return_X_y=True, as_frame=True)
    held_out, train = split(X, y, 0, 0.5)
    assert checks_section(case_of(*held_out, train), train).concerns == ()
    assert checks_section(case_of(*held_out, train)).concerns == ()


def test_margins_of_images_are_told_in_the_table_only_where_they_are_many():
    X, y = load_digits(return_X_y=True, as_frame=True)
    X["bright"] = (X.sum(axis=1) > 312).astype(int)
    held_out, train = split(X, y, 0)
    found = checks_section(case_of(*held_out, train), train)
    assert found.findings["checks.constant"] >= 3
    assert all("one value" in concern for concern in found.concerns)


# --- planted problems ---


def plant(problem, held_out, train, draw):
    """The rows with a problem in them, and the words by which it must be named."""
    (X, y), (train_X, train_y) = held_out, train
    X, train_X = X.copy(), train_X.copy()
    regression = y.dtype.kind == "f"
    codes = [y, train_y] if regression else [pd.Series(pd.factorize(v, sort=True)[0]) for v in (y, train_y)]
    frames = (X, train_X)
    if problem == "copies":
        chosen = draw.choice(len(X), 60, replace=False)
        X, y = pd.concat([X, X.iloc[chosen]], ignore_index=True), pd.concat([y, y.iloc[chosen]], ignore_index=True)
        return (X, y), (train_X, train_y), "are copies of others"
    if problem == "seen before":
        seen = draw.choice(len(train_X), 60, replace=False)
        X = pd.concat([X.iloc[60:], train_X.iloc[seen]], ignore_index=True)
        y = pd.concat([y.iloc[60:], train_y.iloc[seen]], ignore_index=True)
        return (X, y), (train_X, train_y), "are copies of training rows"
    if problem == "constant":
        for frame in frames:
            frame["planted"] = 7
        return (X, y), (train_X, train_y), "'planted' holds one value only"
    if problem == "nearly constant":
        for frame in frames:
            frame["planted"] = 0.0
            frame.loc[0, "planted"] = 1.0
        return (X, y), (train_X, train_y), "'planted' differs from one value"
    if problem == "other gaps":
        for frame, share in zip(frames, (0.4, 0.1), strict=True):
            frame["planted"] = np.where(draw.random(len(frame)) < share, np.nan, draw.normal(size=len(frame)))
        return (X, y), (train_X, train_y), "'planted' is missing surely more or less often"
    spread = float(np.std(codes[0]))
    for frame, code in zip(frames, codes, strict=True):
        if problem == "target in other words":
            frame["planted"] = code * 3.5 + 1
        elif problem == "target with noise":
            frame["planted"] = code + draw.normal(0, 0.05 * spread, len(frame))
        elif problem == "missing unless so":
            frame["planted"] = np.where(code == code.max(), draw.normal(size=len(frame)), np.nan)
    return (X, y), (train_X, train_y), "'planted' tells the answer"


PLANTED = ["copies", "seen before", "constant", "nearly constant", "other gaps", "target in other words", "target with noise"]


@pytest.mark.parametrize("problem", [*PLANTED, "missing unless so"])
@pytest.mark.parametrize("make", [numbers, people, line])
def test_each_planted_problem_is_named_and_nothing_else(problem, make, size, measured):
    if problem == "missing unless so" and make is line:
        return  # a regression has no answer that is either there or not
    seeds, named, others = max(2, size("checks_quiet_seeds") // 10), 0, []
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        X, y = make(draw, seed)
        held_out, train, words = plant(problem, *split(X, y, seed), draw)
        found = checks_section(case_of(*held_out, train, seed=seed), train)
        named += any(words in concern for concern in found.concerns)
        others += [c for c in found.concerns if words not in c]
    measured(seeds=seeds, named=named, others=len(others))
    assert named == seeds and not others, (named, others)


def test_rows_seen_before_are_named_in_coarse_columns_too(size):
    named = 0
    for seed in range(10):
        draw = np.random.default_rng(seed)
        X, y = survey(draw, seed)
        held_out, train = split(X, y, seed)
        grown = pd.concat([train[0].iloc[:300]] + [held_out[0]], ignore_index=True)
        answers = pd.concat([train[1].iloc[:300]] + [held_out[1]], ignore_index=True)
        found = checks_section(case_of(*held_out, (grown, answers)), (grown, answers))
        named += found.findings["checks.overlap"] == 1
    assert named == 10  # all rows stand in the training rows, and 243 kinds of rows cannot show it: the number is told


def test_two_columns_that_tell_the_answer_do_not_excuse_each_other():
    X, y = numbers(np.random.default_rng(1), 1)
    held_out, train = split(X.assign(closed=y, open=1.0 - y), y, 1)
    concern, = checks_section(case_of(*held_out, train), train).concerns
    assert concern.startswith("The columns 'closed', 'open' tell the answer each alone")


def test_ids_and_times_that_cross_the_split_are_named():
    X, y = people(np.random.default_rng(0), 0)
    X["day"] = pd.date_range("2026-01-01", periods=len(X), freq="h").astype(str)
    X["person"] = [f"p{i // 3}" for i in range(len(X))]
    features = list(X.columns[:-2])
    (held, held_y), (train, train_y) = split(X, y, 0)
    case = case_of(held[features], held_y, (train[features], train_y), context=held[["day", "person"]])
    found = checks_section(case, (train, train_y), time="day", ids=["person"])
    assert len(found.concerns) == 2
    assert "older by 'day' than the newest training row" in found.concerns[1] and "an id in 'person'" in found.concerns[0]
    ordered = X.iloc[:900], X.iloc[900:]
    case = case_of(ordered[1][features], y[900:], (ordered[0][features], y[:900]), context=ordered[1][["day", "person"]])
    found = checks_section(case, (ordered[0], y[:900]), time="day", ids=["person"])
    assert found.concerns == () and found.findings["checks.time_overlap"] == found.findings["checks.shared_ids"] == 0


def test_a_class_of_hardly_any_row_is_named_as_too_little_to_say():
    X, y = people(np.random.default_rng(0), 0)
    y = y.mask(y.index % 500 == 0, "maybe")
    held_out, train = split(X, y, 0)
    told = checks_section(case_of(*held_out, train), train).concerns
    assert len(told) == 1 and told[0].startswith("Fewer than 5 held-out rows are of 'maybe'")


def test_a_rare_class_is_named():
    draw = np.random.default_rng(0)
    X = pd.DataFrame(draw.normal(size=(4000, 4))).add_prefix("c")
    y = pd.Series((draw.random(4000) < 0.01).astype(int))
    held_out, train = split(X, y, 0, 0.5)
    model = wrap(DummyClassifier(strategy="prior").fit(*train))
    told = checks_section(Case(model, *held_out, predict_outcome(model, *held_out)), train).concerns
    assert len(told) == 1 and "are of '1': accuracy says little" in told[0]


def test_labels_that_were_turned_are_hinted_at_by_their_places_only():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    (held, truth), train = split(X, y, 0, 0.5)
    turned = [3, 40, 77, 120, 200]
    wrong = truth.copy()
    wrong.iloc[turned] = 1 - wrong.iloc[turned]
    found = checks_section(case_of(held, wrong, train), train)
    text = next(e.text for e in found.evidence if "worth a look" in e.title)
    assert len(set(map(int, text.split("\n")[0].split(", "))) & set(turned)) >= 4
    assert found.concerns == () and found.findings["checks.label_hints"] > 0.01


def test_names_that_are_not_there_are_told_with_the_closest():
    X, y = people(np.random.default_rng(0), 0)
    held_out, train = split(X, y, 0)
    case = case_of(*held_out, train)
    with pytest.raises(NotFound, match="Did you mean 'city'"):
        checks_section(case, train, ids=["cities"])
    with pytest.raises(NotFound, match="'day'"):
        checks_section(case, train, time="day")
    with pytest.raises(InputError, match="must hold times"):
        checks_section(case, train, time="city")
    with pytest.raises(InputError, match="must have the columns of the held-out ones"):
        checks_section(case, (train[0].iloc[:, :3], train[1]))


def test_facts_and_findings_hold_no_row():
    X, y = people(np.random.default_rng(0), 0)
    X["income"] = X["income"] + 0.123456
    held_out, train = split(X, y, 0)
    found = checks_section(case_of(*held_out, train), train)
    written = repr(found.facts) + repr(found.findings) + "".join(e.html() for e in found.evidence)
    assert "123456" not in written
