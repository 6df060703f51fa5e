"""Every scikit-learn estimator, fitted: what the contract tests, and the list of trusted types, go through.

`fitted_zoo` gives all of `sklearn.utils.all_estimators()`: built with its defaults, or by `ARGUMENTS` where it needs some,
and fitted on `SPECIAL` input where a table of numbers is not what it takes. `fitted_more` gives what that list lacks:
the tasks, labels and columns that people bring.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.cluster import KMeans
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import all_estimators, get_tags

ROWS = 90
Case = tuple[str, Any, Any, Any]  # name, fitted estimator, X, y (None where nothing is to be learned)


@cache
def numbers() -> pd.DataFrame:
    """Four columns of numbers that tell three classes apart."""
    X, _ = make_classification(ROWS, 4, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0)
    return pd.DataFrame(X, columns=["height", "width in m", "größe", "weight"])


@cache
def classes(count: int) -> np.ndarray:
    """Labels as text, of 2 or 3 classes."""
    _, y = make_classification(ROWS, 4, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0)
    return np.array(["blue", "green", "red"], dtype=object)[np.minimum(y, count - 1)]


def target() -> np.ndarray:
    """Positive numbers that follow from the columns."""
    X = numbers()
    return np.exp(0.3 * X["height"] - 0.2 * X["größe"]).to_numpy() + 0.5


def positive() -> pd.DataFrame:
    """Counts, never negative."""
    return (numbers() - numbers().min()).round().astype("float64")


TEXTS = ["the cat sat", "a dog ran home", "cat and dog", "größe ist nicht alles", "home sat the dog"]
COLOURS = ["blue", "green", "red"]


def texts() -> list[str]:
    """Short documents."""
    return [f"{TEXTS[i % 5]} {TEXTS[(i // 5) % 5]}" for i in range(ROWS)]


def records() -> list[dict[str, Any]]:
    """Objects that do not all hold the same keys."""
    return [{"height": i / 7, "colour": COLOURS[i % 3], **({"age": float(i)} if i % 4 else {})} for i in range(ROWS)]


def kinds() -> pd.DataFrame:
    """Categories as text, one with gaps of its own name."""
    return pd.DataFrame({"colour": [COLOURS[i % 3] for i in range(ROWS)], "size": [["s", "m"][i // 2 % 2] for i in range(ROWS)]})


def gaps() -> pd.DataFrame:
    """Numbers of which some are missing."""
    X = numbers().copy()
    X.iloc[::7, 1] = np.nan
    return X


def images() -> np.ndarray:
    """Small pictures, shape (6, 12, 12)."""
    return np.random.default_rng(0).normal(size=(6, 12, 12))


def kernel() -> np.ndarray:
    """A linear kernel matrix of the rows among themselves."""
    X = numbers().to_numpy()
    return X @ X.T


def labels() -> list[tuple[str, ...]]:
    """Sets of labels, none to three a row."""
    return [tuple(COLOURS[: i % 4]) for i in range(ROWS)]


def two_numbers() -> np.ndarray:
    """Two targets a row."""
    return np.column_stack([target(), numbers()["weight"]])


def two_labels() -> np.ndarray:
    """A multilabel indicator, shape (rows, 2)."""
    X = numbers()
    return np.column_stack([X["height"] > 0, X["weight"] > 0]).astype(int)


# What those are built with that cannot be built without arguments, or not for four columns.
ARGUMENTS: dict[str, Callable[[type], Any]] = {
    "ClassifierChain": lambda made: made(LogisticRegression()),
    "ColumnTransformer": lambda made: made([("scaled", StandardScaler(), ["height", "größe"])], remainder="passthrough"),
    "FeatureUnion": lambda made: made([("scaled", StandardScaler()), ("parts", PCA(2))]),
    "FixedThresholdClassifier": lambda made: made(LogisticRegression(), threshold=0.3, pos_label="green"),
    "FrozenEstimator": lambda made: made(LogisticRegression().fit(numbers(), classes(3))),
    "GaussianRandomProjection": lambda made: made(2),
    "GridSearchCV": lambda made: made(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    "HalvingGridSearchCV": lambda made: made(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2, random_state=0),
    "HalvingRandomSearchCV": lambda made: made(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2, random_state=0),
    "MultiOutputClassifier": lambda made: made(LogisticRegression()),
    "MultiOutputRegressor": lambda made: made(Ridge()),
    "OneVsOneClassifier": lambda made: made(LogisticRegression()),
    "OneVsRestClassifier": lambda made: made(LogisticRegression()),
    "OutputCodeClassifier": lambda made: made(LogisticRegression(), random_state=0),
    "Pipeline": lambda made: made([("scale", StandardScaler()), ("model", LogisticRegression())]),
    "RFE": lambda made: made(LogisticRegression()),
    "RFECV": lambda made: made(LogisticRegression(), cv=2),
    "RandomizedSearchCV": lambda made: made(LogisticRegression(), {"C": [0.1, 1.0]}, n_iter=2, cv=2, random_state=0),
    "RegressorChain": lambda made: made(LinearRegression()),
    "SelectFromModel": lambda made: made(LogisticRegression()),
    "SelfTrainingClassifier": lambda made: made(LogisticRegression()),
    "SequentialFeatureSelector": lambda made: made(LogisticRegression(), cv=2),
    "SparseCoder": lambda made: made(np.eye(4)),
    "SparseRandomProjection": lambda made: made(2),
    "StackingClassifier": lambda made: made([("a", LogisticRegression()), ("b", LogisticRegression(C=0.1))], cv=2),
    "StackingRegressor": lambda made: made([("a", Ridge()), ("b", LinearRegression())], cv=2),
    "TunedThresholdClassifierCV": lambda made: made(LogisticRegression(), cv=2, random_state=0),
    "VotingClassifier": lambda made: made([("a", LogisticRegression()), ("b", LogisticRegression(C=0.1))]),
    "VotingRegressor": lambda made: made([("a", Ridge()), ("b", LinearRegression())]),
}

# The input of those that take no table of numbers, and the target of those that take no plain one.
SPECIAL: dict[str, Callable[[], tuple[Any, Any]]] = {
    "CCA": lambda: (numbers(), two_numbers()),
    "CategoricalNB": lambda: (positive().astype("int64"), classes(3)),
    "ClassifierChain": lambda: (numbers(), two_labels()),
    "CountVectorizer": lambda: (texts(), None),
    "DictVectorizer": lambda: (records(), None),
    "FeatureHasher": lambda: (records(), None),
    "FixedThresholdClassifier": lambda: (numbers(), classes(2)),
    "HashingVectorizer": lambda: (texts(), None),
    "IsotonicRegression": lambda: (numbers()["height"], target()),
    "KNNImputer": lambda: (gaps(), None),
    "KernelCenterer": lambda: (kernel(), None),
    "LabelBinarizer": lambda: (classes(3), None),
    "LabelEncoder": lambda: (classes(3), None),
    "LabelPropagation": lambda: (numbers(), np.unique(classes(3), return_inverse=True)[1]),
    "LabelSpreading": lambda: (numbers(), np.unique(classes(3), return_inverse=True)[1]),
    "MissingIndicator": lambda: (gaps(), None),
    "MultiLabelBinarizer": lambda: (labels(), None),
    "MultiOutputClassifier": lambda: (numbers(), two_labels()),
    "MultiOutputRegressor": lambda: (numbers(), two_numbers()),
    "MultiTaskElasticNet": lambda: (numbers(), two_numbers()),
    "MultiTaskElasticNetCV": lambda: (numbers(), two_numbers()),
    "MultiTaskLasso": lambda: (numbers(), two_numbers()),
    "MultiTaskLassoCV": lambda: (numbers(), two_numbers()),
    "OneHotEncoder": lambda: (kinds(), None),
    "OrdinalEncoder": lambda: (kinds(), None),
    "PLSCanonical": lambda: (numbers(), two_numbers()),
    "PLSRegression": lambda: (numbers(), two_numbers()),
    "PLSSVD": lambda: (numbers(), two_numbers()),
    "PatchExtractor": lambda: (images(), None),
    "RegressorChain": lambda: (numbers(), two_numbers()),
    "SelfTrainingClassifier": lambda: (numbers(), np.unique(classes(3), return_inverse=True)[1]),
    "SequentialFeatureSelector": lambda: (numbers(), classes(3)),
    "SimpleImputer": lambda: (gaps(), None),
    "SkewedChi2Sampler": lambda: (positive(), None),
    "TargetEncoder": lambda: (kinds(), target()),
    "TfidfVectorizer": lambda: (texts(), None),
    "TunedThresholdClassifierCV": lambda: (numbers(), classes(2)),
}


def build(name: str, made: type) -> Any:
    """The estimator with its defaults, or with the arguments of the table; seeded where it takes a seed."""
    estimator = ARGUMENTS[name](made) if name in ARGUMENTS else made()
    parameters = estimator.get_params(deep=False)
    return estimator.set_params(random_state=0) if parameters.get("random_state", 0) is None else estimator


def data_for(name: str, estimator: Any) -> tuple[Any, Any]:
    """What to fit it on."""
    if name in SPECIAL:
        return SPECIAL[name]()
    tags = get_tags(estimator)
    X = positive() if tags.input_tags.positive_only else numbers()
    if tags.estimator_type == "classifier":
        return X, classes(3)
    if tags.estimator_type == "regressor":
        return X, target()
    learns = tags.target_tags.required or name.startswith(("Select", "GenericUnivariate"))  # by a score of the target
    return X, classes(3) if learns else None


def fit(estimator: Any, X: Any, y: Any) -> Any:
    """Fit, without the warnings of defaults on little data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X) if y is None else estimator.fit(X, y)


def fitted_zoo() -> Iterator[Case]:
    """Name, fitted estimator, X and y of every scikit-learn estimator."""
    for name, made in all_estimators():
        estimator = build(name, made)
        X, y = data_for(name, estimator)
        yield name, fit(estimator, X, y), X, y


def mixed() -> pd.DataFrame:
    """What a table in the wild holds: gaps, dates, categories, nullable types, text, names with spaces and umlauts."""
    X, n = numbers(), ROWS
    return pd.DataFrame({
        "height in m": X["height"].astype("float32"), "Größe, größer als 0": X["größe"].where(np.arange(n) % 6 > 0),
        "visits": pd.array([None if i % 9 == 4 else i % 5 for i in range(n)], dtype="Int64"),
        "member": pd.array([None if i % 11 == 5 else i % 3 == 0 for i in range(n)], dtype="boolean"),
        "paid": [i % 4 == 1 for i in range(n)], "level": np.arange(n, dtype="int8") % 7,
        "grade": pd.Categorical([["low", "mid", None, "high"][i % 4] for i in range(n)], ["low", "mid", "high"], ordered=True),
        "rooms": pd.Categorical([(3, 1, 2)[i % 3] for i in range(n)]), "region": [["nord", "süd", None][i % 3] for i in range(n)],
        "note": texts(), "since": pd.date_range("2024-02-27", periods=n, freq="31h"),
        "seen": pd.date_range("2024-02-27", periods=n, freq="7D", tz="Europe/Zurich"),
    })


def mixed_pipeline(last: Any) -> Any:
    """A pipeline that uses each column of `mixed`."""
    numeric = make_pipeline(SimpleImputer(), StandardScaler())
    moments = make_pipeline(FunctionTransformer(np.asarray, kw_args={"dtype": "float64"}), StandardScaler())
    words = make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OneHotEncoder(handle_unknown="ignore"))
    return make_pipeline(make_column_transformer(
        (numeric, ["height in m", "Größe, größer als 0", "visits", "member", "paid", "level"]),
        (OneHotEncoder(handle_unknown="ignore"), ["grade", "rooms"]), (words, ["region"]), (TfidfVectorizer(), "note"),
        (moments, ["since"]), (moments, ["seen"]),
    ), last)


@cache
def more() -> dict[str, tuple[Any, Any, Any]]:
    """What people bring beyond the defaults of single estimators: unfitted estimator, X and y by name."""
    X, y = numbers(), classes(2)
    forest = RandomForestClassifier(5, random_state=0)
    sparse = TfidfVectorizer().fit_transform(texts())
    return {
        "mixed columns, binary": (mixed_pipeline(LogisticRegression()), mixed(), y),
        "mixed columns, regression": (mixed_pipeline(Ridge()), mixed(), target()),
        "mixed columns, multilabel": (mixed_pipeline(forest), mixed(), two_labels()),
        "native categories": (HistGradientBoostingClassifier(max_iter=5, categorical_features="from_dtype"),
                              mixed()[["grade", "rooms", "height in m"]], y),
        "labels that are booleans": (LogisticRegression(), X, y == "blue"),
        "labels that are integers": (LogisticRegression(), X, np.where(y == "blue", 7, -3)),
        "labels that are floats": (LogisticRegression(), X, np.where(y == "blue", 1.0, 2.0)),
        "decision function only": (LinearSVC(), X, y),
        "decision function only, several classes": (RidgeClassifier(), X, classes(3)),
        "several outputs of text": (forest, X, np.column_stack([classes(3), classes(2)])),
        "several labels as indicators": (OneVsRestClassifier(LogisticRegression()), X, two_labels()),
        "several labels of a network": (MLPClassifier(max_iter=20, random_state=0), X, two_labels()),
        "several labels of neighbours": (KNeighborsClassifier(), X, two_labels()),
        "several numbers of neighbours": (KNeighborsRegressor(), X, two_numbers()),
        "several numbers of a process": (GaussianProcessRegressor(), X, two_numbers()),
        "an array without names": (LogisticRegression(), X.to_numpy(), y),
        "an array of single precision": (RandomForestRegressor(5, random_state=0), X.to_numpy(dtype="float32"), target()),
        "a frame with numbers for names": (LogisticRegression(), X.set_axis(range(4), axis=1), y),
        "a sparse matrix": (LogisticRegression(), sparse, y),
        "a sparse array of counts": (MultinomialNB(), csr_array(CountVectorizer().fit_transform(texts())), y),
        "sparse columns of a frame": (LogisticRegression(), pd.get_dummies(kinds(), sparse=True, dtype="float64"), y),
        "texts in a list": (make_pipeline(TfidfVectorizer(), LogisticRegression()), texts(), y),
        "texts in a series": (make_pipeline(CountVectorizer(), MultinomialNB()), pd.Series(texts(), name="body"), y),
        "texts in an array": (make_pipeline(TfidfVectorizer(), Ridge()), np.array(texts()), target()),
        "records": (make_pipeline(DictVectorizer(), LogisticRegression()), records(), y),
        "a search over a pipeline": (
            GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1.0]}, cv=2), X, y),
        "clusters of a pipeline": (make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)), X, None),
        "outliers of a pipeline": (make_pipeline(StandardScaler(), IsolationForest(n_estimators=5, random_state=0)), X, None),
        "outliers against their neighbours": (LocalOutlierFactor(novelty=True), X.to_numpy(), None),
        "a target that was transformed": (TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp), X, target()),
        "a transformer that gives a frame": (StandardScaler().set_output(transform="pandas"), X, None),
        "gaps that the model takes": (HistGradientBoostingRegressor(max_iter=5), gaps(), target()),
    }


def fitted_more() -> Iterator[Case]:
    """Name, fitted estimator, X and y of all of `more`."""
    for name, (estimator, X, y) in more().items():
        yield name, fit(estimator, X, y), X, y
