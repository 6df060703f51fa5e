"""What is opened without asking: the list is what the script gives, and a planted content is refused before it is asked."""

import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest
import skops.io
import trusted_types as script
from sklearn import cluster, ensemble, neighbors, pipeline, preprocessing, tree
from sklearn.datasets import load_iris

from mlworkbench.core.errors import InputError
from mlworkbench.model.loading import load_model, save_model
from mlworkbench.model.trusted import check_content, trusted_types

X, Y = load_iris(return_X_y=True)


def test_the_list_is_what_the_script_gives():
    assert script.trusted_types() == sorted(trusted_types())


def test_every_name_on_the_list_is_a_class_of_the_three_libraries_and_none_a_function():
    for name in trusted_types():
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        assert inspect.isclass(found) and found.__module__.split(".")[0] in ("numpy", "scipy", "sklearn"), name


def planted_tree(change):
    forest = ensemble.RandomForestClassifier(3, random_state=0).fit(X, Y)
    state = forest.estimators_[1].tree_.__getstate__()
    change(state["nodes"])
    forest.estimators_[1].tree_.__setstate__(state)
    return forest


def child_beyond(nodes):
    nodes["left_child"][0] = 10**6


def child_before(nodes):
    nodes["right_child"][0] = 0


def child_negative(nodes):
    nodes["right_child"][0] = -5


def column_beyond(nodes):
    nodes["feature"][0] = 10**5


def column_negative(nodes):
    nodes["feature"][0] = -3


@pytest.mark.parametrize("change", [child_beyond, child_before, child_negative, column_beyond, column_negative])
def test_a_forest_with_planted_nodes_is_refused_before_it_is_asked(change, tmp_path):
    skops.io.dump(planted_tree(change), tmp_path / "forest.skops")
    with pytest.raises(InputError, match="forest.skops: the nodes of its trees .* a Tree that leads elsewhere"):
        load_model(tmp_path / "forest.skops")


def test_trees_of_more_columns_than_their_forest_hands_on_are_refused():
    forest = ensemble.RandomForestClassifier(3, random_state=0).fit(X, Y)
    forest.n_features_in_ = 2
    with pytest.raises(InputError, match="a Tree that leads elsewhere"):
        check_content(forest, "forest")


@pytest.mark.parametrize(
    ("field", "value"), [("left", 10**6), ("right", 0), ("feature_idx", 99), ("is_categorical", 1), ("left", 2**32 - 1)]
)
def test_histogram_boosting_with_planted_nodes_is_refused(field, value, tmp_path):
    fitted = ensemble.HistGradientBoostingClassifier(max_iter=3).fit(X, Y)
    nodes = fitted._predictors[1][0].nodes
    nodes[field][0] = value
    if field == "is_categorical":
        nodes["bitset_idx"][0] = 5
    skops.io.dump(fitted, tmp_path / "boosted.skops")
    with pytest.raises(InputError, match="a (TreePredictor|HistGradientBoostingClassifier) that leads elsewhere"):
        load_model(tmp_path / "boosted.skops")


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
def test_a_tree_of_neighbours_with_planted_rows_is_refused(algorithm, tmp_path):
    fitted = neighbors.KNeighborsClassifier(algorithm=algorithm).fit(X, Y)
    state = list(fitted._tree.__getstate__())
    place = next(i for i, part in enumerate(state) if getattr(part, "dtype", None) == np.intp and np.ndim(part) == 1)
    state[place] = state[place].copy()
    state[place][0] = 10**6
    fitted._tree.__setstate__(tuple(state))
    skops.io.dump(fitted, tmp_path / "near.skops")
    with pytest.raises(InputError, match="Tree.* that leads elsewhere"):
        load_model(tmp_path / "near.skops")


def planted_neighbours(change, algorithm):
    fitted = neighbors.KNeighborsClassifier(algorithm=algorithm, leaf_size=10).fit(X, Y)
    state = list(fitted._tree.__getstate__())
    state[2], state[3] = state[2].copy(), np.array(state[3])
    change(state)
    fitted._tree.__setstate__(tuple(state))
    return fitted


def no_leaves(state):
    state[2]["is_leaf"] = 0


def child_of_other_rows(state):
    state[2]["idx_end"][1] = len(X)
    state[2]["idx_end"][3] = 0
    state[2]["idx_start"][3] = 0
    state[2]["idx_end"][0] = len(X) - 1


def bounds_of_fewer_nodes(state):
    state[3] = np.ascontiguousarray(state[3][:, :2])


def bounds_of_fewer_columns(state):
    state[3] = np.ascontiguousarray(state[3][:, :, :1])


def fewer_nodes_than_noted(state):
    state[6] = 1


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
@pytest.mark.parametrize("change", [no_leaves, child_of_other_rows, bounds_of_fewer_nodes, bounds_of_fewer_columns,
                                    fewer_nodes_than_noted])  # fmt: skip
def test_a_tree_of_neighbours_with_planted_nodes_is_refused(change, algorithm, tmp_path):
    skops.io.dump(planted_neighbours(change, algorithm), tmp_path / "near.skops")
    with pytest.raises(InputError, match="Tree.* that leads elsewhere"):
        load_model(tmp_path / "near.skops")


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
def test_a_tree_of_neighbours_without_leaves_does_not_take_the_process_down(algorithm, tmp_path):
    skops.io.dump(planted_neighbours(no_leaves, algorithm), tmp_path / "near.skops")
    code = (
        "import sys, numpy\nfrom mlworkbench.core.errors import InputError\nfrom mlworkbench.model.loading import load_model\n"
        "try:\n    load_model(sys.argv[1]).predict(numpy.zeros((50, 4)))\nexcept InputError as error:\n    sys.exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "near.skops"], capture_output=True).returncode == 7


@pytest.mark.parametrize("columns", [None, [0]])
def test_boosting_that_asks_for_categories_of_a_number_is_refused(columns):
    fitted = ensemble.HistGradientBoostingClassifier(max_iter=2, categorical_features=columns).fit(np.round(X), Y)
    for trees in fitted._predictors:
        for one in trees:
            nodes = one.nodes
            asked = (nodes["is_leaf"] == 0) & (nodes["feature_idx"] != 0)
            nodes["is_categorical"][asked], nodes["bitset_idx"][asked] = 1, 0
            one.raw_left_cat_bitsets = one.binned_left_cat_bitsets = np.zeros((1, 8), dtype=np.uint32)
    with pytest.raises(InputError, match="a HistGradientBoostingClassifier that leads elsewhere"):
        check_content(fitted, "boosted")


@pytest.mark.parametrize("made", [
    tree.DecisionTreeRegressor(), ensemble.GradientBoostingClassifier(n_estimators=2),
    ensemble.IsolationForest(n_estimators=5, max_features=2),
    ensemble.BaggingClassifier(tree.DecisionTreeClassifier(), 3, max_features=2), ensemble.AdaBoostClassifier(n_estimators=2),
    ensemble.RandomTreesEmbedding(3), ensemble.HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]),
    ensemble.StackingClassifier([("tree", tree.DecisionTreeClassifier())], tree.DecisionTreeClassifier()),
    pipeline.make_pipeline(preprocessing.PolynomialFeatures(), ensemble.RandomForestClassifier(2)),
    neighbors.LocalOutlierFactor(novelty=True, algorithm="ball_tree"), neighbors.KernelDensity(),
], ids=lambda made: type(made).__name__)  # fmt: skip
def test_sound_models_are_never_refused(made, tmp_path):
    rows = np.round(X)
    fitted = made.fit(rows, Y)
    skops.io.dump(fitted, tmp_path / "it.skops")
    check_content(skops.io.load(tmp_path / "it.skops", trusted=skops.io.get_untrusted_types(file=tmp_path / "it.skops")), "it")


def test_a_birch_is_kept_without_the_tree_that_it_grew_in(tmp_path):
    for made in (cluster.Birch(n_clusters=3), cluster.Birch(n_clusters=None, threshold=0.8),
                 pipeline.make_pipeline(preprocessing.StandardScaler(), cluster.Birch(n_clusters=2))):  # fmt: skip
        fitted = made.fit(X)
        again = load_model(save_model(fitted, tmp_path / "groups.skops"))
        assert type(again.estimator) is type(fitted) and again.kind == "cluster"
        assert (again.predict(X) == fitted.predict(X)).all() and (again.transform(X) == fitted.transform(X)).all()
        last = fitted[-1] if hasattr(fitted, "steps") else fitted
        assert hasattr(last, "root_"), "the person's own object keeps its tree"
