"""Tasks, columns and types of models: each kind is told apart, each misfit is told in words."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn import cluster, compose, ensemble, impute, linear_model, multioutput, naive_bayes, pipeline, preprocessing, svm
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.model.data import check_columns, check_types, data_sha256, learned_columns, read_table, split_target
from mlworkbench.model.loading import load_model
from mlworkbench.model.task import classes_of, task_of

X, Y = make_classification(120, n_features=6, n_informative=5, n_redundant=0, n_classes=3, random_state=0)


@pytest.mark.parametrize(("estimator", "target", "task"), [
    (linear_model.LogisticRegression(max_iter=500), Y > 0, "binary"),
    (linear_model.RidgeClassifier(), Y, "multiclass"),
    (svm.LinearSVC(), Y > 0, "binary"),
    (GridSearchCV(naive_bayes.GaussianNB(), {"var_smoothing": [1e-9]}), Y, "multiclass"),
    (pipeline.make_pipeline(preprocessing.StandardScaler(), ensemble.RandomForestClassifier(3)), Y, "multiclass"),
    (ensemble.RandomForestClassifier(3), np.c_[Y > 0, Y > 1], "multilabel"),
    (ensemble.RandomForestClassifier(3), np.c_[Y, Y], "multioutput"),
    (linear_model.LinearRegression(), Y, "regression"),
    (linear_model.LinearRegression(), np.c_[Y, Y], "multitarget"),
    (svm.SVR(kernel="linear"), Y, "regression"),
    (multioutput.MultiOutputRegressor(linear_model.Ridge()), np.c_[Y, Y], "multitarget"),
    (compose.TransformedTargetRegressor(linear_model.Ridge()), Y, "regression"),
    (ensemble.IsolationForest(n_estimators=3), None, "outlier"),
    (cluster.KMeans(2, n_init=1), None, "cluster"),
    (preprocessing.StandardScaler(), None, "transform"),
])
def test_each_kind_of_model_has_its_task(estimator, target, task):
    assert task_of(estimator.fit(X, target)) == task


def test_classes_are_plain_values():
    fitted = naive_bayes.GaussianNB().fit(X, Y > 0)
    assert classes_of(fitted) == (False, True) and all(type(c) is bool for c in classes_of(fitted))


@pytest.mark.parametrize("thing", [None, 3, "text", {}, pd.DataFrame(), linear_model.Ridge, linear_model.Ridge(), object()])
def test_what_is_no_fitted_model_is_refused(thing):
    with pytest.raises(InputError, match="^model"):
        load_model(thing)


def test_a_classifier_of_one_class_is_refused():
    with pytest.raises(InputError, match="at least two classes"):
        load_model(naive_bayes.GaussianNB().fit(X, np.zeros(120)))


FRAME = pd.DataFrame({"age": [31.0, np.nan, 52, 23], "größe in m": [1.7, 1.8, 1.6, 1.9], "region": list("nssn")})


def fitted_pipeline():
    words = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="most_frequent"), preprocessing.OneHotEncoder(handle_unknown="ignore")
    )
    numbers = pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler())
    columns = compose.make_column_transformer((numbers, ["age", "größe in m"]), (words, ["region"]))
    return load_model(pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(FRAME, [0, 1, 1, 0]))


def test_columns_come_back_in_the_models_order():
    shuffled = FRAME[["region", "age", "größe in m"]]
    assert list(check_columns(fitted_pipeline(), shuffled).columns) == list(FRAME.columns)


@pytest.mark.parametrize(("change", "told"), [
    ({"columns": {"region": "regoin"}}, "no 'region' but 'regoin'. Rename 'regoin' to 'region'."),
    ({"columns": {"age": "xyz"}}, "no 'age'; the unknown 'xyz'. Add 'xyz' to `ignore`."),
])
def test_a_misspelt_column_is_named_with_its_right_name(change, told):
    with pytest.raises(InputError) as caught:
        check_columns(fitted_pipeline(), FRAME.rename(**change))
    assert told in str(caught.value)


def test_missing_and_extra_columns_are_all_named():
    with pytest.raises(InputError) as caught:
        check_columns(fitted_pipeline(), FRAME.drop(columns=["age", "region"]).assign(id=1, when=2))
    assert "no 'age'; no 'region'; the unknown 'id', 'when'" in str(caught.value)


def test_a_model_without_names_counts_columns():
    model = load_model(naive_bayes.GaussianNB().fit(X, Y))
    assert check_columns(model, X) is X
    for wrong in (X[:, :3], pd.DataFrame(X[:, :3]), sparse.csr_matrix(X[:, :3])):
        with pytest.raises(InputError, match="6 columns"):
            check_columns(model, wrong)


def test_what_encoders_and_scalers_learned_is_known():
    learned = learned_columns(fitted_pipeline().estimator)
    assert learned["age"] == "number" and list(learned["region"]) == ["n", "s"]


@pytest.mark.parametrize(("column", "values", "told"), [
    ("age", ["31", "?", "52", "23"], r"'age': it must hold numbers, got '\?'"),
    ("region", ["North", "South", "South", "North"], "categories that the model learned"),
    ("region", [0, 1, 1, 0], "categories that the model learned"),
])
def test_a_column_of_another_type_is_refused(column, values, told):
    with pytest.raises(InputError, match=told):
        check_types(fitted_pipeline(), FRAME.assign(**{column: values}))


def test_categories_that_a_csv_turned_into_numbers_come_back_as_text():
    frame = FRAME.assign(region=["1", "2", "2", "1"])
    columns = compose.make_column_transformer((preprocessing.OneHotEncoder(), ["region"]), remainder="drop")
    model = load_model(pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(frame, [0, 1, 1, 0]))
    assert check_types(model, frame.assign(region=[1, 2, 2, 1])).equals(frame)
    assert check_types(model, frame.assign(region=[1, None, 2, 1]))["region"].tolist()[::2] == ["1", "2"]
    with pytest.raises(InputError, match="categories that the model learned"):
        check_types(model, frame.assign(region=[7, 8, 8, 7]))


def test_numbers_that_arrive_as_text_pass():
    text = FRAME.assign(age=["31", None, "52", "23"])
    assert check_types(fitted_pipeline(), text) is text


def test_target_and_ignored_columns_leave_the_features():
    features, target = split_target(FRAME, "age", ["region", "not there"])
    assert list(features.columns) == ["größe in m"] and target.name == "age"
    with pytest.raises(NotFound, match="Did you mean 'region'"):
        split_target(FRAME, "reggion")
    with pytest.raises(InputError, match="must be named"):
        split_target(FRAME, "")
    with pytest.raises(InputError, match="at least one feature"):
        split_target(FRAME, "age", ["region", "größe in m"])


def test_a_frame_without_rows_or_with_one_name_twice_is_refused():
    with pytest.raises(InputError, match="at least one row"):
        read_table(FRAME[:0])
    with pytest.raises(InputError, match="age twice"):
        read_table(FRAME.set_axis(["age", "age", "region"], axis=1))


def test_the_hash_of_data_is_of_its_contents():
    assert data_sha256(FRAME) == data_sha256(FRAME.set_index(pd.Index([9, 8, 7, 6])))
    changed = [FRAME[::-1], FRAME.rename(columns={"age": "Age"}), FRAME.assign(age=FRAME["age"] + 1e-9), FRAME[:3]]
    assert len({data_sha256(t) for t in [FRAME, *changed]}) == 5
    assert data_sha256(X) == data_sha256(sparse.csr_matrix(X)) != data_sha256(X, Y)
