"""Writes templates/model/trusted_types.txt: the classes inside models that are opened without asking.

Run it as `python tests/trusted_types.py` after an upgrade of scikit-learn or skops, and read the diff before it is
committed. A name comes in for one of two reasons: the file of a fitted estimator (tests/zoo.py) needs it, or it is
the sister of one that does: another kernel, distance, loss, splitter, scorer. Only classes of NumPy, SciPy and
scikit-learn, never a function: what a function would do when it is called, no list can say.
"""

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "scipy", "sklearn")
FILE = Path(__file__).resolve().parent.parent / "templates" / "model" / "trusted_types.txt"
HEAD = """\
# Classes of NumPy, SciPy and scikit-learn inside fitted models, beyond those that skops trusts by itself.
# Made by tests/trusted_types.py: one full name a line, classes only, no prefixes. Read the diff.
"""


def resolve(name: str) -> Any:
    """The object of a full name; None when it is not there."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None


def belongs(name: str) -> bool:
    """Whether a name is that of a class of the three libraries."""
    found = resolve(name)
    return name.split(".")[0] in LIBRARIES and inspect.isclass(found) and found.__module__.split(".")[0] in LIBRARIES


def needed(estimator: Any) -> list[str]:
    """The types that the file of a fitted estimator needs beyond skops' own; none where skops cannot hold it."""
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException

    from mlworkbench.model.scikit_learn import slim

    try:
        return skops.io.get_untrusted_types(data=skops.io.dumps(slim(estimator)))
    except (UnsupportedTypeException, TypeError):
        return []


def variants() -> Iterator[Any]:
    """What the zoo's defaults do not show: other solvers, criteria, neighbours, supports of the same estimators."""
    import numpy as np
    import zoo
    from sklearn import (
        calibration,
        cluster,
        compose,
        ensemble,
        gaussian_process,
        isotonic,
        linear_model,
        model_selection,
        naive_bayes,
        neighbors,
        neural_network,
        pipeline,
        preprocessing,
        svm,
    )

    X, y, target = zoo.numbers(), zoo.classes(3), zoo.target()
    for algorithm in ("kd_tree", "ball_tree", "brute"):
        for metric in ("euclidean", "manhattan", "chebyshev"):
            yield neighbors.KNeighborsClassifier(algorithm=algorithm, metric=metric).fit(X, y)
            yield neighbors.KNeighborsClassifier(algorithm=algorithm, metric=metric).fit(X.astype("float32"), y)
    for solver in ("adam", "sgd"):
        yield neural_network.MLPRegressor(solver=solver, max_iter=2).fit(X, target)
    for loss in ("squared_error", "absolute_error", "gamma", "poisson", "quantile"):
        quantile = {"quantile": 0.5} if loss == "quantile" else {}
        yield ensemble.HistGradientBoostingRegressor(loss=loss, max_iter=2, **quantile).fit(X, target)
    for power in (0, 1, 1.5, 2, 3):
        yield linear_model.TweedieRegressor(power=power).fit(X, target)
    for method in ("sigmoid", "isotonic", "temperature"):
        yield calibration.CalibratedClassifierCV(
            svm.LinearSVC() if method != "temperature" else naive_bayes.GaussianNB(), method=method, cv=2
        ).fit(X, y)
    for criterion in ("gini", "entropy"):
        yield ensemble.RandomForestClassifier(2, criterion=criterion, oob_score=True).fit(X, y)
    for strategy in ("uniform", "quantile", "kmeans"):
        yield preprocessing.KBinsDiscretizer(3, strategy=strategy, quantile_method="averaged_inverted_cdf").fit(X)
    yield preprocessing.SplineTransformer(sparse_output=True).fit(X)
    yield isotonic.IsotonicRegression().fit(X["height"], target)
    yield gaussian_process.GaussianProcessClassifier().fit(X, y)
    yield cluster.BisectingKMeans(3).fit(X)
    yield svm.SVC(probability=True).fit(X, y)
    chosen = compose.make_column_selector(dtype_include=np.number)
    columns = compose.make_column_transformer((preprocessing.StandardScaler(), chosen))
    yield pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(X, y)
    for scoring in ("accuracy", "roc_auc_ovr", ["accuracy", "neg_log_loss"]):
        search = model_selection.GridSearchCV(
            linear_model.LogisticRegression(),
            {"C": [1.0]},
            scoring=scoring,
            cv=2,
            refit=scoring[0] if isinstance(scoring, list) else True,
        )
        yield search.fit(X, y)


def sisters() -> Iterator[str]:
    """All classes of scikit-learn that share a base with such an inner one."""
    from sklearn._loss import link, loss
    from sklearn.gaussian_process import kernels
    from sklearn.metrics import _dist_metrics, _scorer
    from sklearn.model_selection import _split
    from sklearn.neighbors import _ball_tree, _kd_tree
    from sklearn.neural_network import _stochastic_optimizers

    bases = [
        kernels.Kernel,
        _dist_metrics.DistanceMetric64,
        _dist_metrics.DistanceMetric32,
        _scorer._BaseScorer,
        _split.BaseCrossValidator,
        _split.BaseShuffleSplit,
        _split._RepeatedSplits,
        loss.BaseLoss,
        link.BaseLink,
        _stochastic_optimizers.BaseOptimizer,
    ]
    for module in (kernels, _dist_metrics, _scorer, _split, loss, link, _stochastic_optimizers):
        for name, found in vars(module).items():
            concrete = inspect.isclass(found) and found.__module__ == module.__name__ and not inspect.isabstract(found)
            if concrete and issubclass(found, tuple(bases)) and found not in bases and "PyFunc" not in name:  # calls a function
                yield f"{module.__name__}.{name}"
    for module in (_ball_tree, _kd_tree):
        yield from (
            f"{module.__name__}.{name}"
            for name, found in vars(module).items()
            if inspect.isclass(found) and name.startswith(("BallTree", "KDTree"))
        )


def known_to_skops() -> set[str]:
    """What skops trusts by itself."""
    room = importlib.import_module("skops.io._trusted_types")
    lists = (value for value in vars(room).values() if isinstance(value, (list, set, tuple, frozenset)))
    return {str(name) for value in lists for name in value}


def trusted_types() -> list[str]:
    """The names, sorted."""
    import sklearn
    import zoo

    for module in pkgutil.iter_modules(sklearn.__path__):  # classes that skops looks up by name
        if not module.name.startswith("_"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(f"sklearn.{module.name}") if module.name not in ("conftest", "tests") else None
    found = set(sisters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, estimator, _, _ in zoo.fitted_zoo():
            found.update(needed(estimator))
        for estimator in variants():
            found.update(needed(estimator))
    return sorted(name for name in found - known_to_skops() if belongs(name))


if __name__ == "__main__":
    FILE.write_text(HEAD + "\n".join(trusted_types()) + "\n", encoding="utf-8")
