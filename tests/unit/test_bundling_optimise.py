"""A converted model answers as its original does, and a copy that does not is found out."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier

from mlworkbench.bundling import optimise as room
from mlworkbench.bundling.convert import convert_estimator
from mlworkbench.bundling.golden import make_golden
from mlworkbench.bundling.optimise import answers_of, asks, optimise
from mlworkbench.bundling.sources import Unconvertible
from mlworkbench.core.errors import GateFailed, InputError, MissingPart, problem
from mlworkbench.model.inputs import profile_table
from mlworkbench.model.loading import wrap
from mlworkbench.model.signature import infer_signature
from mlworkbench.serving.tensors import tensor_model
from mlworkbench.statistics.profiles import profile_frame

N = 400


def drawn(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbers() -> pd.DataFrame:
    """Numbers of very different size."""
    return pd.DataFrame(drawn().normal(size=(N, 4)) * [1, 1e3, 1e-4, 1], columns=list("abcd"))


def people() -> pd.DataFrame:
    """Numbers with gaps, whole numbers and categories with gaps."""
    chance, X = drawn(), numbers()
    X["n"] = chance.integers(0, 6, N)
    X["city"] = chance.choice(["Bern", "Basel", "bern", "Zug", "Chur"], N, p=[0.4, 0.3, 0.2, 0.08, 0.02])
    X["size"] = np.where(chance.random(N) < 0.2, None, chance.choice(["s", "m", "l"], N))
    X.loc[chance.random(N) < 0.2, "b"] = np.nan
    X.loc[chance.random(N) < 0.1, "d"] = np.nan
    return X


def target(X: pd.DataFrame) -> np.ndarray:
    return np.where(X["a"] + X["d"].fillna(0.5) * X["c"] * 1e4 > 0.2, "up", "down")


def parts(estimator: Any, X: Any, rows: int = 16) -> tuple:
    """Model, signature, profile and golden rows of a fitted estimator."""
    signature = infer_signature(wrap(estimator), X)
    profile = profile_frame(profile_table(signature, X))
    return wrap(estimator), signature, profile, make_golden(estimator, signature, profile, rows=rows)


def graph_of(estimator: Any, X: Any) -> Any:
    made = convert_estimator(estimator, infer_signature(wrap(estimator), X))
    return tensor_model(made.content, json.loads(json.dumps(made.about)))


# --- to the last bit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_depth": 3, "min_samples_leaf": 5}], ids=["grown", "cut"])
@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_a_forest_whose_votes_tie_keeps_its_labels(kind, options):
    X = numbers()
    y = np.array(["a", "b", "c"])[drawn(1).integers(0, 3, N)]  # nothing to learn: the trees disagree
    forest = kind(4, random_state=0, **options).fit(X, y)
    rows = pd.DataFrame(drawn(2).normal(size=(3000, 4)) * [1, 1e3, 1e-4, 1], columns=X.columns)
    graph, chances = graph_of(forest, X), forest.predict_proba(rows)
    ordered = np.sort(chances, axis=1)
    assert options or (ordered[:, -1] == ordered[:, -2]).sum() > 100
    assert (graph.predict_proba(rows) == chances).all()
    assert (graph.predict(rows) == forest.predict(rows)).all()


@pytest.mark.parametrize("estimator", [
    DecisionTreeClassifier(min_samples_leaf=3, random_state=0), RandomForestClassifier(5, min_samples_leaf=3, random_state=0),
    GradientBoostingClassifier(n_estimators=8, random_state=0), HistGradientBoostingClassifier(max_iter=8, random_state=0),
], ids=lambda e: type(e).__name__)
def test_thresholds_met_exactly_and_on_both_sides_fall_as_in_the_original(estimator):
    X = numbers()
    estimator.fit(X, target(X))
    if isinstance(estimator, HistGradientBoostingClassifier):
        told = [(n["feature_idx"], n["num_threshold"]) for p in estimator._predictors for n in p[0].nodes if not n["is_leaf"]]
    else:
        trees = np.ravel(getattr(estimator, "estimators_", [estimator]))
        told = [(f, t) for tree in trees for f, t in zip(tree.tree_.feature, tree.tree_.threshold, strict=True) if f >= 0]
    rows = []
    for place, (feature, threshold) in enumerate(told):
        near = np.float32(threshold)
        for value in (threshold, np.nextafter(threshold, -np.inf), np.nextafter(threshold, np.inf), near,
                      np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))):
            row = X.iloc[place % N].to_numpy(copy=True)
            row[feature] = value
            rows.append(row)
    asked, graph = pd.DataFrame(rows, columns=X.columns), graph_of(estimator, X)
    assert len(asked) > 100 and (graph.predict(asked) == estimator.predict(asked)).all()
    assert abs(graph.predict_proba(asked) - estimator.predict_proba(asked)).max() < 3e-16


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_a_pipeline_gives_the_bits_of_the_original_in_every_precision(dtype):
    X = (numbers() * [10, 1, 1e6, 10]).astype(dtype)
    model = make_pipeline(StandardScaler(), RandomForestRegressor(10, random_state=0)).fit(X, numbers()["a"])
    assert (graph_of(model, X).predict(X) == model.predict(X)).all()


def test_every_pattern_of_gaps_is_filled_as_the_original_fills_it():
    X = people()
    y, names = target(X), ["a", "b", "c", "d", "n"]
    filled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    words = make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder(handle_unknown="ignore"))
    model = make_pipeline(make_column_transformer((filled, names), (words, ["city", "size"])),
                          RandomForestClassifier(8, random_state=0)).fit(X, y)
    found = optimise(*parts(model, X), mode="required", rows=120)
    kinds = {check.kind: check for check in found.checks}
    assert found.worst == 0 and kinds["with gaps"].rows >= 8 and kinds["categories"].rows > 20 and kinds["at jumps"].rows > 60


def test_histogram_boosting_sends_missing_unknown_and_known_categories_where_it_learned_to():
    X = people()
    X["size"], X["city"] = X["size"].astype("category"), X["city"].astype("category")
    model = HistGradientBoostingClassifier(max_iter=15, categorical_features="from_dtype", random_state=0)
    model.fit(X, target(X) == "up")
    found = optimise(*parts(model, X), mode="required", rows=120)
    assert found.worst < 3e-16 and found.labels_differ == 0


@pytest.mark.parametrize("encoder", [
    OneHotEncoder(handle_unknown="ignore"), OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=60),
    OneHotEncoder(drop="first", handle_unknown="ignore", sparse_output=False), OneHotEncoder(drop="if_binary"),
    OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist"), OrdinalEncoder(),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2), TargetEncoder(),
], ids=lambda e: str(e).replace("\n", "")[:60])
def test_an_encoder_reads_known_new_and_missing_categories_as_it_learned_to(encoder):
    X = people()[["city", "size", "n", "a"]]
    y = target(people())
    columns = make_column_transformer((encoder, ["city", "size", "n"]), remainder="passthrough")
    model = make_pipeline(columns, RandomForestClassifier(8, random_state=0)).fit(X, y)
    found = optimise(*parts(model, X), mode="required", rows=120)
    assert found.worst == 0 and found.labels_differ == 0
    strict = encoder.get_params().get("handle_unknown") == "error"
    assert (sum(check.refused for check in found.checks) > 0) == strict


def test_texts_are_counted_as_the_original_counts_them():
    notes = [f"{a} {b}, über {c}!" for a, b, c in drawn().choice(["Katze", "hund", "HAUS", "geht", "sitzt"], (200, 3))]
    y = np.array([note.lower().count("hund") for note in notes]) > 0
    for X in (notes, pd.DataFrame({"note": notes, "a": drawn().normal(size=200)})):
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        first = words if X is notes else make_column_transformer((words, "note"), remainder="passthrough")
        found = optimise(*parts(make_pipeline(first, LogisticRegression()).fit(X, y), X), mode="required", rows=60)
        assert found.worst < 1e-14 and any(check.kind == "of words" and check.rows > 200 for check in found.checks)


def test_numbers_that_single_precision_cannot_hold_are_refused_by_both():
    X = numbers()
    model = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0)).fit(X, target(X))
    wrapped, signature, profile, golden = parts(model, X)
    found = optimise(wrapped, signature, profile, golden, mode="required", rows=40)
    copy = tensor_model(found.content, found.about)
    rows = signature.check([{"a": 1e300, "b": 0.0, "c": 0.0, "d": -1e300}, {"a": 1e9, "b": 0.0, "c": 0.0, "d": -1e9}])
    for one in (model, copy):
        assert list(answers_of(asks(one, signature), rows)) == [1]


def rejecting(signature):
    return replace(signature, columns=[replace(column, policy="reject") for column in signature.columns])


@pytest.mark.parametrize(("steps", "dtype", "size", "policy"), [
    ((StandardScaler(),), "float64", 1e300, rejecting), ((PolynomialFeatures(3),), "int64", 10**14, lambda s: s),
    ((StandardScaler(),), "float32", 1e38, lambda s: s), ((PolynomialFeatures(3),), "float32", -1e14, lambda s: s),
    ((PolynomialFeatures(6),), "int32", 2**31 - 1, rejecting),
], ids=["refused by the signature", "whole numbers", "single precision", "powers in single precision", "whole and refused"])
def test_a_number_that_the_original_does_not_take_is_refused_whatever_the_column_is(steps, dtype, size, policy):
    X = (numbers()[["a", "c"]] * [0.1 if dtype[0] == "f" else 10, 1e4]).astype(dtype)
    model = make_pipeline(*steps, RandomForestClassifier(3, random_state=0)).fit(X, X["a"] > 0)
    wrapped, signature, profile, golden = parts(model, X)
    signature = policy(signature)
    found = optimise(wrapped, signature, profile, golden, mode="required", rows=40)
    copy, checked = tensor_model(found.content, found.about), signature.check([golden["rows"][0]] * 2)
    checked.columns["a"][1] = size
    for one in (model, copy):
        assert list(answers_of(asks(one, signature), checked)) == [0]


def test_a_size_that_cancels_out_in_all_columns_together_is_found_in_each_by_itself():
    X = numbers()[["a", "d"]]
    model = make_pipeline(PCA(1), RandomForestClassifier(3, random_state=0)).fit(X, target(numbers()))
    model[0].components_ = np.array([[1.0, -1.0]]) / np.sqrt(2)
    wrapped, signature, profile, golden = parts(model, X)
    found = optimise(wrapped, signature, profile, golden, mode="required", rows=40)
    assert 1e30 < found.about["limit"] < 1e39


def test_a_model_that_takes_every_number_of_its_columns_has_no_limit():
    X = numbers().assign(n=drawn().integers(0, 9, N), k=drawn(1).integers(0, 3, N))
    columns = make_column_transformer((OneHotEncoder(), ["k"]), ("passthrough", ["n"]))
    model = make_pipeline(columns, RandomForestClassifier(3, random_state=0)).fit(X[["n", "k"]], X["n"] > 4)
    assert "limit" not in optimise(*parts(model, X[["n", "k"]]), mode="required", rows=40).about


def test_a_gap_that_the_original_refuses_is_refused_by_the_copy_whatever_the_signature_allows():
    X = numbers()
    for model, refused in ((LogisticRegression(), True), (RandomForestClassifier(3, random_state=0), False)):
        wrapped, signature, profile, golden = parts(model.fit(X, target(X)), X)
        wide = replace(signature, columns=[replace(c, nullable=True) for c in signature.columns])
        found = optimise(wrapped, wide, profile, golden, mode="required", rows=60)
        gaps = next(check for check in found.checks if check.kind == "with gaps")
        assert gaps.rows > 8 and (gaps.refused == gaps.rows) == refused
        assert {reader["missing"] for reader in found.about["readers"]} == ({"refuse"} if refused else {None})


# --- a wrong copy is found out --------------------------------------------------------------------------------------


def swapped_gaps(model):
    for predictor in model._predictors:
        for tree in predictor:
            tree.nodes["missing_go_to_left"] = 1 - tree.nodes["missing_go_to_left"]


def moved_threshold(model):
    """One threshold, of the root of one tree, by the least amount."""
    root = model._predictors[0][0].nodes
    root["num_threshold"][0] = np.nextafter(root["num_threshold"][0], np.inf)


def changed_leaf(model):
    nodes = model._predictors[-1][0].nodes
    nodes["value"][np.flatnonzero(nodes["is_leaf"])[0]] += 1e-4


@pytest.mark.parametrize("harm", [swapped_gaps, moved_threshold, changed_leaf])
def test_a_copy_that_differs_by_one_number_is_refused_with_the_row(harm, monkeypatch):
    X = people()[["a", "b", "d"]]
    model = HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=4, random_state=0).fit(X, X["a"] + X["b"].fillna(900) / 1e3)
    harmed = HistGradientBoostingRegressor(max_iter=3, max_leaf_nodes=4, random_state=0).fit(X, X["a"] + X["b"].fillna(900) / 1e3)
    harm(harmed)
    monkeypatch.setattr(room, "convert_model", lambda _, signature: convert_estimator(harmed, signature))
    found = optimise(*parts(model, X), rows=400)
    assert not found.accepted and "the prediction differs by" in found.reason
    with pytest.raises(GateFailed, match="must answer as the model does, got row"):
        optimise(*parts(model, X), rows=400, mode="required")


def test_a_copy_that_takes_an_almost_known_category_for_a_known_one_is_refused(monkeypatch):
    X = people()[["city", "a"]]
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough")
    model = make_pipeline(columns, RandomForestClassifier(20, random_state=0)).fit(X, X["city"] == "Bern")

    def careless(_, signature):
        made = convert_estimator(model, signature)
        readers = [dict(reader) for reader in made.about["readers"]]
        coded = next(reader for reader in readers if "values" in reader)
        coded["values"] = [*coded["values"], "BERN"]
        coded["numbers"] = [*range(len(coded["values"]) - 1), coded["values"].index("Bern")]
        return replace(made, about={**made.about, "readers": readers})

    monkeypatch.setattr(room, "convert_model", careless)
    found = optimise(*parts(model, X), rows=60)
    assert not found.accepted and "of the rows categories" in found.reason and found.labels_differ > 0


def test_a_copy_that_answers_what_the_original_refuses_is_refused(monkeypatch):
    X = people()[["city", "a"]]
    columns = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression()).fit(X, target(people()))

    def lenient(_, signature):
        made = convert_estimator(model, signature)
        readers = [{**reader, "unknown": 0} if "values" in reader else reader for reader in made.about["readers"]]
        return replace(made, about={**made.about, "readers": readers})

    monkeypatch.setattr(room, "convert_model", lenient)
    found = optimise(*parts(model, X), rows=60)
    assert not found.accepted and "the model refuses it, its copy answers" in found.reason


# --- reasons --------------------------------------------------------------------------------------------------------


class Doubled(RandomForestClassifier):
    """Somebody's own forest."""

    def predict_proba(self, X):
        return super().predict_proba(X)[:, ::-1]


def halved(rows):
    return rows / 2


@pytest.mark.parametrize(("model", "reason"), [
    (Doubled(3), "Doubled of"), (make_pipeline(FunctionTransformer(halved), LogisticRegression()), "the function halved"),
    (make_pipeline(StandardScaler(), Doubled(3)), "Doubled of"),
], ids=["a class", "a function", "inside of a pipeline"])
def test_what_is_not_converted_is_named_and_raises_only_where_it_is_required(model, reason):
    X = numbers()
    told = parts(model.fit(X, target(X)), X)
    found = optimise(*told)
    assert not found.accepted and reason in found.reason and not found.about and not found.content and not found.checks
    with pytest.raises(InputError, match=reason):
        optimise(*told, mode="required")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("function", "dtype", "converted"), [
    (np.square, "int32", False), (np.absolute, "int64", False), (np.reciprocal, "int64", False), (np.negative, "uint8", False),
    (np.log1p, "int8", False), (np.tanh, "bool", False), (np.sign, "int32", True), (np.tanh, "int64", True),
    (np.square, "float64", True),
], ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_function_of_whole_numbers_is_converted_only_where_it_is_that_of_doubles(function, dtype, converted):
    X = pd.DataFrame({"n": drawn().integers(0, 2, N).astype(dtype), "a": drawn(1).normal(size=N)})
    squared = make_column_transformer((FunctionTransformer(function), ["n"]), remainder="passthrough")
    model = make_pipeline(squared, RandomForestClassifier(3, random_state=0)).fit(X, X["a"] > 0)
    signature = infer_signature(wrap(model), X)
    if converted:
        assert convert_estimator(model, signature).content
        return
    with pytest.raises(Unconvertible, match=f"the function {function.__name__} of {dtype}"):
        convert_estimator(model, signature)


def test_weights_of_columns_are_not_forgotten():
    X = numbers()
    columns = make_column_transformer((StandardScaler(), ["a", "b"]), remainder="passthrough")
    columns.set_params(transformer_weights={"standardscaler": 10.0})
    model = make_pipeline(columns, LogisticRegression()).fit(X, target(X))
    assert optimise(*parts(model, X)).reason == "a ColumnTransformer with weights is not converted"


def test_an_estimator_whose_parts_break_the_conversion_keeps_the_original(monkeypatch):
    X = numbers()
    model = LogisticRegression().fit(X, target(X))
    told = parts(model, X)
    monkeypatch.setattr(room, "convert_model", lambda *_: (_ for _ in ()).throw(AttributeError("no coef_\nat all")))
    assert optimise(*told).reason == "the conversion failed (AttributeError: no coef_)"


def test_without_the_extra_the_line_to_type_is_the_reason(monkeypatch):
    X = numbers()
    told = parts(LogisticRegression().fit(X, target(X)), X)

    def lacking(module, extra, *, where, must):
        raise MissingPart(problem(where, must, "none", f'Type: pip install "mlworkbench[{extra}]"'))

    monkeypatch.setattr(room, "import_extra", lacking)
    found = optimise(*told)
    assert not found.accepted and 'pip install "mlworkbench[onnx]"' in found.reason
    with pytest.raises(MissingPart, match="the library onnx must be installed"):
        optimise(*told, mode="required")


def test_switched_off_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(room, "converted", lambda *_: pytest.fail("it was tried"))
    X = numbers()
    found = optimise(*parts(LogisticRegression().fit(X, target(X)), X), mode="off")
    assert not found.accepted and found.reason == "optimising is switched off"
    with pytest.raises(InputError, match="the mode must be a known one"):
        optimise(*parts(LogisticRegression().fit(X, target(X)), X), mode="fast")


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_the_same_model_makes_the_same_file_and_entry_and_stays_as_it_was():
    X = people()
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), ("passthrough", ["a", "c"]))
    model = make_pipeline(columns, RandomForestClassifier(4, random_state=0)).fit(X, target(X))
    before = model.predict_proba(X)
    signature = infer_signature(wrap(model), X)
    first, second = (convert_estimator(model, signature) for _ in range(2))
    assert first.content == second.content and first.about == second.about
    assert (model.predict_proba(X) == before).all()


def test_the_result_tells_rows_differences_speed_and_writes_the_entry(tmp_path):
    X = numbers()
    found = optimise(*parts(RandomForestClassifier(4, random_state=0).fit(X, target(X)), X), rows=60)
    assert found.accepted and found.reason == "" and found.worst == 0 and found.rows == sum(line["asked"] for line in found.table)
    assert set(found.speed) == {"before", "after"} and all(0 < s < 5 for told in found.speed.values() for s in told.values())
    entry = found.write(tmp_path)
    assert (tmp_path / entry["file"]).read_bytes() == found.content and entry["format"] == "tensors"
    assert json.loads(json.dumps(entry)) == entry


def test_eight_bits_are_taken_only_where_their_own_proof_holds():
    X = pd.DataFrame(drawn().normal(size=(N, 6)), columns=list("abcdef"))
    network = MLPClassifier((64,), max_iter=40, random_state=0).fit(X, X["a"] > 0)
    told = parts(network, X)
    strict = optimise(*told, quantise="int8", rows=60, quantised_tolerance=1e-6)
    assert strict.accepted and strict.worst < 1e-12 and not strict.quantised["accepted"]
    assert "differs by" in strict.quantised["reason"] and strict.quantised["worst"] > 1e-6
    assert strict.quantised["bytes"] < strict.quantised["bytes_before"]
    forest = optimise(*parts(RandomForestClassifier(3).fit(X, X["a"] > 0), X), quantise="int8", rows=40)
    assert forest.accepted and forest.quantised == {"accepted": False, "reason": "only networks are held in eight bits"}


def test_a_network_with_room_between_its_classes_is_held_in_eight_bits():
    X = pd.DataFrame(drawn().choice([-1.0, 1.0], size=(N, 2)), columns=["a", "b"]).astype("int64")
    network = MLPClassifier((16,), max_iter=400, random_state=0, alpha=0.0).fit(X, X["a"] > 0)
    model, signature, profile, golden = parts(network, X)
    signature = replace(signature, columns=[replace(c, minimum=-1, maximum=1, policy="reject") for c in signature.columns])
    found = optimise(model, signature, profile, golden, quantise="int8", rows=60, quantised_tolerance=0.2)
    assert found.accepted and found.quantised["accepted"] and found.labels_differ == 0 and 0 < found.worst <= 0.2
    assert found.content != optimise(model, signature, profile, golden, rows=60).content


def rare() -> tuple[Any, pd.DataFrame, float]:
    """A network of a rare class, its rows, and the middle of its scores."""
    chance = drawn(0)
    X = pd.DataFrame(chance.normal(size=(600, 6)), columns=list("abcdef"))
    y = chance.random(600) < 0.02 * np.exp(0.5 * X["a"])
    network = MLPClassifier((32,), alpha=20, max_iter=300, random_state=0).fit(X, y)
    return network, X, float(np.median(network.predict_proba(X)[:, 1]))


@pytest.mark.filterwarnings("ignore")
def test_labels_are_compared_by_the_threshold_that_is_shipped_and_where_the_score_reaches_it():
    network, X, threshold = rare()
    model, signature, profile, golden = parts(network, X)
    shipped = replace(model, threshold=threshold, positive=True)
    found = optimise(shipped, signature, profile, golden, quantise="int8", rows=200)
    assert found.accepted and found.labels_differ == 0 and not found.quantised["accepted"]
    assert found.quantised["labels_differ"] > 0 and "the label is" in found.quantised["reason"]
    between = next(check for check in found.checks if check.kind == "between labels")
    assert between.rows > 10


@pytest.mark.filterwarnings("ignore")
def test_rows_between_two_labels_lie_on_both_sides_of_the_threshold():
    network, X, threshold = rare()
    model, signature, profile, golden = parts(network, X)
    made = convert_estimator(network, signature)
    pair = room.Pair(replace(model, threshold=threshold, positive=True), signature, made, tensor_model(made.content, made.about))
    rows = next(trial.rows for trial in room._trials(pair, profile, golden, 200, 0) if trial.kind == "between labels")
    scores = network.predict_proba(pd.DataFrame(rows))[:, 1]
    assert abs(scores - threshold).max() < 1e-7 and 0.4 < (scores >= threshold).mean() < 0.6


def test_of_many_columns_of_which_none_changes_a_label_alone_the_edges_are_found_on_the_way_between_rows():
    X = pd.DataFrame(drawn().normal(size=(N, 60)), columns=[f"c{i}" for i in range(60)])
    model = LogisticRegression().fit(X, X.sum(axis=1) > 0)
    found = optimise(*parts(model, X), mode="required", rows=200)
    assert next(check for check in found.checks if check.kind == "between labels").rows > 30


def test_numbers_so_large_that_the_copy_would_say_something_else_are_refused_by_it():
    X = numbers()[["a", "d"]]
    groups = KMeans(5, random_state=0).fit(X)
    wrapped, signature, profile, golden = parts(groups, X)
    found = optimise(wrapped, signature, profile, golden, mode="required", rows=60)
    copy, sizes = tensor_model(found.content, found.about), [10.0**power for power in range(1, 300)]
    checked = signature.check([{"a": size, "d": -0.5} for size in sizes])
    wanted, said = answers_of(asks(groups, signature), checked), answers_of(asks(copy, signature), checked)
    assert 10 < len(said) < len(wanted) == len(sizes)
    assert {row: said[row] for row in said} == {row: wanted[row] for row in said}
