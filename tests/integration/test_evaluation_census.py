"""The whole of `model` and `evaluation` on real mixed-type data, through files, and every bad input that comes to them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from mlworkbench.core.errors import GateFailed, InputError, NotFound
from mlworkbench.evaluation.evaluate import evaluate
from mlworkbench.evaluation.outcomes import prediction_frame
from mlworkbench.evaluation.result import Evaluation, read_evaluation
from mlworkbench.model.data import load_data, split_target
from mlworkbench.model.loading import load_model, save_model
from mlworkbench.model.signature import infer_signature
from mlworkbench.statistics.profiles import profile_frame, side_by_side
from mlworkbench.statistics.tests import two_sample_chi2

DATA = Path(__file__).resolve().parents[2] / "templates" / "demo" / "census_employment.parquet"
IGNORE = ["id", "year"]


@pytest.fixture(scope="module")
def people() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out people of 2015 and 2016."""
    frame = pd.read_parquet(DATA)
    frame = frame[frame["year"] <= 2016]
    train = frame.sample(frac=0.75, random_state=0)
    return train, frame.drop(train.index)


@pytest.fixture(scope="module")
def forest(people):
    X, y = split_target(people[0], "employed", IGNORE)
    words = [c for c in X if X[c].dtype != "float64"]
    encode = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"), OneHotEncoder(handle_unknown="ignore")
    )
    columns = make_column_transformer((encode, words), remainder=SimpleImputer())
    return make_pipeline(columns, RandomForestClassifier(40, min_samples_leaf=3, random_state=0)).fit(X, y)


@pytest.fixture(scope="module")
def held_out(people):
    return split_target(people[1], "employed", IGNORE)


@pytest.fixture(scope="module")
def found(forest, held_out) -> Evaluation:
    return evaluate(forest, *held_out, name="employment", gate=["roc_auc >= 0.85", "roc_auc.low >= 0.85"])


def test_a_real_model_is_evaluated_and_passes_its_gate(found, forest, held_out):
    X, y = held_out
    value = sk.roc_auc_score(y == "yes", forest.predict_proba(X)[:, 1])
    assert found.metric("roc_auc") == pytest.approx(value, abs=1e-12)
    found.check()
    assert found.status == "passed"
    assert found.positive == "yes" and found.rows == len(X) == 3000
    assert found.metric("roc_auc", "low") < value < found.metric("roc_auc", "high")
    assert [e.title for e in found.figures] == ["ROC curve", "Precision and recall", "Confusion", "Calibration"]


def test_summary_tables_and_figures_are_equal_twice(found, forest, held_out):
    again = evaluate(forest, *held_out, name="employment", gate=["roc_auc >= 0.85", "roc_auc.low >= 0.85"])
    assert again.summary() == found.summary() and again.to_dict() == found.to_dict()
    assert [e.html() for e in again.evidence()] == [e.html() for e in found.evidence()]


def test_evidence_needs_no_network_and_holds_no_row(found):
    html = "".join(e.html() for e in found.evidence())
    assert "<script" not in html and "href=\"http" not in html and "src=" not in html
    assert "Gate" in html and "roc auc" in html and "baseline" in html


def test_an_evaluation_goes_through_a_file(found, tmp_path):
    path = found.save(tmp_path / "evaluation.json")
    back = read_evaluation(path)
    assert back.summary() == found.summary() and back.to_dict() == found.to_dict()
    assert back.prediction_profile == found.prediction_profile and back.main_metric == "roc_auc"
    assert "NaN" not in path.read_text()


def test_the_prediction_profile_is_comparable_with_what_a_log_holds(found, forest, held_out):
    X, _ = held_out
    logged = json.loads(json.dumps({"p": forest.predict(X).tolist(), "q": forest.predict_proba(X).tolist()}))
    frame = prediction_frame("binary", logged["p"], logged["q"], found.classes, found.positive)
    live = profile_frame(frame, like=found.prediction_profile)
    assert list(live.columns) == ["prediction", "probability_yes"]
    for name, column in live.columns.items():
        _, reference, current = side_by_side(found.prediction_profile[name], column)
        assert reference == current and two_sample_chi2(reference, current).p_value == 1


def test_the_positive_class_turns_the_metrics_around(found, forest, held_out):
    X, y = held_out
    turned = evaluate(forest, X, y, positive="no", resamples=0)
    assert turned.positive == "no" and turned.metric("roc_auc") == pytest.approx(found.metric("roc_auc"), abs=1e-12)
    assert turned.metric("recall") == pytest.approx(sk.recall_score(y, forest.predict(X), pos_label="no"), abs=1e-12)
    with pytest.raises(InputError, match="must be 'no' or 'yes', got 'maybe'"):
        evaluate(forest, X, y, positive="maybe")


def test_model_and_data_come_from_files(forest, people, held_out, tmp_path, found):
    path = save_model(forest, tmp_path / "employment.skops")
    people[1].to_parquet(tmp_path / "held_out.parquet")
    people[1].to_csv(tmp_path / "held_out.csv", index=False)
    for name in ("held_out.parquet", "held_out.csv"):
        X, y = load_data(tmp_path / name, "employed", IGNORE)
        again = evaluate(load_model(path), X, y, name="employment", resamples=0)
        assert again.metrics["value"].tolist() == found.metrics["value"].tolist()
    assert again.model_sha256 == load_model(path).sha256


def test_the_signature_gives_the_frame_and_the_predictions_back(forest, held_out):
    X, _ = held_out
    signature = infer_signature(forest, X)
    rows = [{k: None if v != v else v for k, v in row.items()} for row in X.to_dict("records")]
    checked = signature.check(json.loads(json.dumps(rows)))
    assert not checked.errors and not checked.flags
    back = signature.frame(checked)
    pd.testing.assert_frame_equal(back, X.reset_index(drop=True))
    assert (forest.predict_proba(back) == forest.predict_proba(X)).all()
    assert {c.name for c in signature.columns if c.nullable} == set(X.columns[X.isna().any()])


def test_other_kinds_of_models_are_evaluated_too(people, held_out):
    X, y = (table.head(800) for table in held_out)
    words = [c for c in X if X[c].dtype != "float64"]

    def after_codes(last, words=words):
        codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
        return make_pipeline(make_column_transformer((codes, words), remainder=SimpleImputer()), last)

    train, answers = split_target(people[0], "employed", IGNORE)
    decided = evaluate(after_codes(RidgeClassifier()).fit(train, answers), X, y, resamples=20)
    assert "roc_auc" in set(decided.metrics["metric"]) and "log_loss" not in set(decided.metrics["metric"])
    several = evaluate(
        after_codes(HistGradientBoostingClassifier(max_iter=10), [w for w in words if w != "race"])
        .fit(train.drop(columns="race"), train["race"]),
        X.drop(columns="race"), X["race"], resamples=20,
    )
    assert several.task == "multiclass" and several.positive is None and several.main_metric == "roc_auc"
    assert {"ROC curve", "Confusion", "Calibration"} == {e.title for e in several.figures}
    numbers = evaluate(Ridge().fit(train[["age"]], train["age"] * 2 + 1), X[["age"]], X["age"] * 2 + 1, resamples=20)
    assert numbers.task == "regression" and numbers.metric("r2") > 0.999 and len(numbers.figures) == 2


def test_warnings_of_a_model_are_gathered_and_shown_once(held_out, recwarn):
    X, _ = held_out
    unnamed = Ridge().fit(X[["age"]].to_numpy(), X["age"])
    noted = evaluate(unnamed, X[["age"]], X["age"], resamples=0)
    assert len(noted.notes) == 1 and "fitted without feature names" in noted.notes[0]
    assert noted.evidence()[-1].title == "Notes" and not [w for w in recwarn if "feature names" in str(w.message)]


def test_a_failed_gate_fails_the_check_with_its_margin(forest, held_out):
    strict = evaluate(forest, *held_out, gate={"accuracy": 0.9999}, resamples=0)
    assert strict.status == "failed"
    with pytest.raises(GateFailed, match="accuracy >= 0.9999 does not hold: it is 0.8"):
        strict.check()


BAD_ROWS = {
    "a missing column": (lambda X, y: (X.drop(columns="age"), y), "no 'age'"),
    "an extra column": (lambda X, y: (X.assign(id=1), y), "the unknown 'id'. Add 'id' to `ignore`"),
    "a misspelt column": (lambda X, y: (X.rename(columns={"age": "aeg"}), y), "no 'age' but 'aeg'. Rename"),
    "text for numbers": (lambda X, y: (X.assign(age="old"), y), "column 'age': it must hold numbers, got 'old'"),
    "another coding": (lambda X, y: (X.assign(sex=1), y), "column 'sex': it must hold the categories that the model"),
    "no rows": (lambda X, y: (X[:0], y[:0]), "at least one row"),
    "no target": (lambda X, y: (X, None), "each row must have its true answer, got no target"),
    "other lengths": (lambda X, y: (X, y[:10]), "3,000 rows and 10 answers"),
    "a missing answer": (lambda X, y: (X, y.where(X["age"] > 5)), "the target must not be missing"),
    "one class only": (lambda X, y: (X[y == "yes"], y[y == "yes"]), "at least two classes, got 'yes'"),
    "an unseen label": (lambda X, y: (X, y.replace({"no": "unknown"})), "got 'unknown' in"),
    "labels of another case": (lambda X, y: (X, y.str.upper()), "They differ in type or case only"),
    "labels of another type": (lambda X, y: (X, (y == "yes").astype(int)), "among those the model knows ('no', 'yes')"),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_bad_rows_are_refused_in_one_sentence(what, forest, held_out):
    change, told = BAD_ROWS[what]
    with pytest.raises(InputError) as caught:
        evaluate(forest, *change(*held_out))
    message = str(caught.value)
    assert told in message and message.endswith(".") and ": " in message and "\n" not in message


def test_bad_files_are_refused_in_one_sentence(tmp_path, people):
    people[1].to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("age,employed\n")
    (tmp_path / "text.parquet").write_text("not parquet")
    (tmp_path / "people.xlsx").write_bytes(b"")
    told = {
        "peple.csv": "Did you mean 'people.csv'?", "empty.csv": "it must be a csv table", "people.xlsx": "must end in",
        "header.csv": "at least one row", "text.parquet": "it must be a parquet table",
    }
    for name, text in told.items():
        with pytest.raises(InputError) as caught:
            load_data(tmp_path / name, "employed")
        assert text in str(caught.value), name
    with pytest.raises(NotFound, match="Did you mean 'employed'"):
        load_data(tmp_path / "people.csv", "employd")


def test_a_bad_gate_is_told_before_the_model_is_asked(held_out):
    class Slow:
        classes_ = np.array(["no", "yes"])

        def predict(self, X):
            raise AssertionError("the model was asked")

    with pytest.raises(NotFound, match="Did you mean 'accuracy'"):
        evaluate(Slow(), *held_out, gate=["acuracy >= 0.9"])


def test_a_regressor_refuses_a_target_of_words(held_out):
    X, y = held_out
    model = Ridge().fit(X[["age"]], X["age"])
    with pytest.raises(InputError, match="the target must hold numbers, got '(no|yes)'"):
        evaluate(model, X[["age"]], y)
    with pytest.raises(InputError, match="the target must be finite"):
        evaluate(model, X[["age"]], X["age"].replace({40.0: np.inf}))


def test_probabilities_that_are_none_are_refused(held_out):
    class Odd:
        classes_ = np.array(["no", "yes"])

        def predict(self, X):
            return np.repeat("no", len(X))

        def predict_proba(self, X):
            return np.full((len(X), 2), 0.7)

    with pytest.raises(InputError, match="sum to one, got a row that sums to 1.4"):
        evaluate(Odd(), *held_out)


def test_a_model_that_answers_too_few_rows_is_refused(held_out):
    class Short:
        classes_ = np.array(["no", "yes"])

        def predict(self, X):
            return np.repeat("no", 3)

    with pytest.raises(InputError, match="must answer 3,000 rows"):
        evaluate(Short(), *held_out)


def test_a_model_that_fails_inside_names_the_reason(held_out):
    X, y = held_out
    model = load_model(Ridge().fit(X[["age"]].to_numpy(), X["age"]))
    with pytest.raises(InputError, match="must be able to predict these rows, got .*string"):
        evaluate(model, X[["sex"]].to_numpy(dtype=object), X["age"])


@pytest.mark.parametrize("path", ["evaluation.json", "other.json", "no.json"])
def test_a_file_that_is_no_evaluation_says_so(path, tmp_path):
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "other.json").write_text("[1, 2")
    with pytest.raises(InputError, match="^evaluation: "):
        read_evaluation(tmp_path / path)
