"""Plausible outcomes of every task, drawn with a seed: for tests of metrics, figures and analyses without a model."""

import numpy as np
from sklearn.decomposition import PCA

from mlworkbench.evaluation.rows import Outcome

LABELS = {2: ("no", "yes"), 4: ("ant", "bee", "cat", "dog")}
PAIRS = ((0, 1),) * 3


def spread(random: np.random.Generator, truth: np.ndarray, count: int, ties: bool = False) -> np.ndarray:
    """Probabilities that lean towards the truth."""
    raw = random.normal(size=(len(truth), count))
    raw[np.arange(len(truth)), truth] += 1.2
    scores = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    return scores.round(1) / scores.round(1).sum(axis=1, keepdims=True) if ties else scores


def draw(task: str, rows: int = 400, seed: int = 0, ties: bool = False, positive: int = 1) -> Outcome:
    """A plausible outcome; `ties` rounds the scores to a tenth."""
    random = np.random.default_rng(seed)
    if task in ("regression", "multitarget"):
        truth = random.normal(50, 10, rows if task == "regression" else (rows, 3))
        said = truth + random.normal(0, 4, truth.shape)
        return Outcome(task, truth, said, outputs=None if task == "regression" else tuple("abc"))
    if task == "multilabel":
        truth = random.integers(0, 2, (rows, 3))
        scores = np.clip(0.3 * truth + 0.7 * random.random(truth.shape), 0, 1)
        scores = scores.round(1) if ties else scores
        return Outcome(task, truth, (scores > 0.5).astype(int), PAIRS, None, scores, True, tuple("abc"))
    if task == "multioutput":
        truth = np.stack([random.integers(0, k, rows) for k in (2, 4)], axis=1)
        scores = tuple(spread(random, truth[:, i], k, ties) for i, k in enumerate((2, 4)))
        said = np.stack([table.argmax(axis=1) for table in scores], axis=1)
        return Outcome(task, truth, said, (LABELS[2], LABELS[4]), None, scores, True, ("wet", "animal"))
    if task in ("cluster", "transform"):
        return draw_unlabelled(task, rows, random)
    count = 4 if task == "multiclass" else 2
    truth = random.integers(0, count, rows)
    scores = spread(random, truth, count, ties)
    code = None if task == "multiclass" else positive
    classes = (1, -1) if task == "outlier" else LABELS[count]
    return Outcome(task, truth, scores.argmax(axis=1), classes, code, scores, task != "outlier")


def draw_unlabelled(task: str, rows: int, random: np.random.Generator) -> Outcome:
    groups = random.integers(0, 3, rows)
    X = random.normal(size=(rows, 4)) + 3 * np.eye(3, 4)[groups]
    if task == "cluster":
        said = np.where(random.random(rows) < 0.1, random.integers(0, 3, rows), groups)
        return Outcome(task, groups, said, (0, 1, 2), features=X)
    plane = PCA(2, random_state=0).fit(X)
    outputs = plane.transform(X)
    return Outcome(task, None, outputs, features=X, restored=plane.inverse_transform(outputs), outputs=("0", "1"))
