"""Figures of every task: they are drawn, the same twice, and say nothing that the outcome cannot tell."""

import numpy as np
import pytest
from drawn_outcomes import draw

from mlworkbench.evaluation.more_figures import figures_of
from mlworkbench.evaluation.rows import Outcome

TITLES = {
    "binary": ["ROC curve", "Precision and recall", "Confusion", "Calibration"],
    "multiclass": ["ROC curve", "Confusion", "Calibration"],
    "multilabel": ["Each output", "ROC curve", "Precision and recall"],
    "multioutput": ["Each output", "Confusion: wet", "Confusion: animal"],
    "regression": ["True against predicted", "Errors against predicted"],
    "multitarget": ["Each output", *(f"True against predicted: {name}" for name in "abc")],
    "outlier": ["ROC curve", "Precision and recall", "Outlier scores", "Confusion"],
    "cluster": ["Clusters", "Cluster sizes"], "transform": ["Outputs", "Restored columns"],
}


@pytest.mark.parametrize("task", TITLES)
def test_every_task_has_its_figures_the_same_twice(task):
    first, again = figures_of(draw(task)), figures_of(draw(task))
    assert [piece.title for piece in first] == TITLES[task]
    assert [piece.svg for piece in first] == [piece.svg for piece in again]
    assert all(piece.svg or len(piece.table) for piece in first)


@pytest.mark.parametrize("task", TITLES)
def test_a_few_rows_are_drawn_without_a_fault(task):
    assert figures_of(draw(task).take(slice(0, 3))) is not None


def test_what_the_outcome_cannot_tell_is_left_out():
    binary = draw("binary")
    assert [p.title for p in figures_of(Outcome("binary", binary.truth, binary.predicted, ("a", "b"), 1))] == ["Confusion"]
    unknown = Outcome("outlier", None, binary.predicted, (1, -1), 1, binary.scores, False)
    assert [p.title for p in figures_of(unknown)] == ["Outlier scores"]
    words = Outcome("cluster", None, binary.predicted, (0, 1))
    assert [p.title for p in figures_of(words)] == ["Cluster sizes"]
    assert figures_of(Outcome("transform", None, np.array([["a"], ["b"]], dtype=object))) == []


def test_the_weakest_output_stands_first():
    outcome = draw("multitarget")
    worse = outcome.predicted.copy()
    worse[:, 2] += 30
    table = figures_of(Outcome("multitarget", outcome.truth, worse, outputs=tuple("abc")))[0].table
    assert table["output"][0] == "c"


def test_long_names_of_classes_are_cut():
    outcome = draw("multiclass")
    names = tuple(f"a very long name of a class, number {i}" for i in range(4))
    long = Outcome("multiclass", outcome.truth, outcome.predicted, names, None, outcome.scores)
    assert all("number 3" not in piece.svg for piece in figures_of(long))
