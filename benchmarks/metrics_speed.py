"""How long intervals take: 1,000 resamples of 200,000 rows, beside scikit-learn in a loop.

Writes docs/evidence/metrics_speed.md.
"""

import argparse
import datetime
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn
from sklearn import metrics as sk

from mlworkbench.evaluation.families import (
    calibration_family,
    label_family,
    number_family,
    probability_family,
    ranking_family,
)
from mlworkbench.evaluation.metrics import families_of, resample_families
from mlworkbench.evaluation.rows import Outcome
from mlworkbench.evaluation.several import several_labels_family, several_rankings_family

LOOPED = 3  # resamples of the loop; its time is scaled up


def classes(rows: int, count: int) -> Outcome:
    """Probabilities of `count` classes that lean towards the truth."""
    random = np.random.default_rng(0)
    truth = random.integers(0, count, rows)
    raw = np.exp(random.normal(size=(rows, count)) + 1.2 * np.eye(count)[truth])
    shares = raw / raw.sum(axis=1, keepdims=True)
    task, positive = ("binary", 1) if count == 2 else ("multiclass", None)
    return Outcome(task, truth, shares.argmax(axis=1), tuple(range(count)), positive, shares)


def labels(rows: int) -> Outcome:
    """Five labels a row."""
    random = np.random.default_rng(0)
    truth = (random.random((rows, 5)) < 0.3).astype(int)
    scores = np.clip(0.3 * truth + 0.7 * random.random(truth.shape), 0, 1)
    return Outcome("multilabel", truth, (scores > 0.5).astype(int), ((0, 1),) * 5, None, scores, True, tuple("abcde"))


def numbers(rows: int) -> Outcome:
    random = np.random.default_rng(0)
    truth = random.normal(50, 10, rows)
    return Outcome("regression", truth, truth + random.normal(0, 4, rows))


def loop_labels(o: Outcome) -> None:
    how = {"average": "macro"} if o.positive is None else {"pos_label": 1}
    sk.accuracy_score(o.truth, o.predicted), sk.balanced_accuracy_score(o.truth, o.predicted)
    sk.precision_score(o.truth, o.predicted, **how), sk.recall_score(o.truth, o.predicted, **how)
    sk.f1_score(o.truth, o.predicted, **how), sk.matthews_corrcoef(o.truth, o.predicted)


def loop_ranking(o: Outcome) -> None:
    if o.task == "binary":
        sk.roc_auc_score(o.truth, o.scores[:, 1]), sk.average_precision_score(o.truth, o.scores[:, 1])
    elif o.task == "multilabel":
        sk.roc_auc_score(o.truth, o.scores), sk.average_precision_score(o.truth, o.scores)
        # without label_ranking_average_precision_score, a loop over rows that takes 25 s a call
    else:
        sk.roc_auc_score(o.truth, o.scores, multi_class="ovr")
        sk.average_precision_score(np.eye(o.scores.shape[1])[o.truth], o.scores)


def loop_probability(o: Outcome) -> None:
    sk.log_loss(o.truth, o.scores)
    sk.brier_score_loss(o.truth, o.scores[:, 1] if o.task == "binary" else o.scores)


def loop_several_labels(o: Outcome) -> None:
    sk.accuracy_score(o.truth, o.predicted), sk.hamming_loss(o.truth, o.predicted)
    sk.jaccard_score(o.truth, o.predicted, average="samples", zero_division=0)
    sk.f1_score(o.truth, o.predicted, average="micro")
    for score in (sk.precision_score, sk.recall_score, sk.f1_score):
        score(o.truth, o.predicted, average="macro")


def loop_numbers(o: Outcome) -> None:
    pair = o.truth, o.predicted
    sk.root_mean_squared_error(*pair), sk.mean_absolute_error(*pair), sk.median_absolute_error(*pair)
    sk.r2_score(*pair), sk.mean_absolute_percentage_error(*pair)
    sk.mean_pinball_loss(*pair, alpha=0.1), sk.mean_pinball_loss(*pair, alpha=0.9)
    np.quantile(np.abs(o.truth - o.predicted), [0.9, 0.95])


def looped(outcome: Outcome, call: Callable[[Outcome], None] | None, resamples: int) -> float:
    """Seconds of scikit-learn on drawn rows, scaled to all resamples."""
    if call is None:
        return float("nan")
    random = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(LOOPED):
        call(outcome.take(random.integers(0, outcome.rows, outcome.rows)))
    return (time.perf_counter() - start) * resamples / LOOPED


def timed(families: list, rows: int, resamples: int) -> tuple[float, float]:
    """Seconds on the clock, and of all cores together."""
    start = time.perf_counter(), time.process_time()
    resample_families(families, rows, resamples)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(rows: int, resamples: int) -> list[tuple[str, float, float, float]]:
    """Name, our seconds (clock, and cores together) and scikit-learn's, for each family."""
    two, four, tags, amounts = classes(rows, 2), classes(rows, 4), labels(rows), numbers(rows)
    plan = [
        ("labels, 2 classes", two, label_family, loop_labels), ("ranking, 2 classes", two, ranking_family, loop_ranking),
        ("probabilities, 2 classes", two, probability_family, loop_probability),
        ("calibration, 2 classes", two, calibration_family, None),
        ("labels, 4 classes", four, label_family, loop_labels), ("ranking, 4 classes", four, ranking_family, loop_ranking),
        ("probabilities, 4 classes", four, probability_family, loop_probability),
        ("errors of a regression", amounts, number_family, loop_numbers),
        ("labels, 5 labels a row", tags, several_labels_family, loop_several_labels),
        ("ranking, 5 labels a row", tags, several_rankings_family, loop_ranking),
    ]
    found = []
    for name, outcome, family, call in plan:
        start = time.perf_counter(), time.process_time()
        made = family(outcome)
        sorting = time.perf_counter() - start[0], time.process_time() - start[1]
        clock, cores = np.add(timed([made], rows, resamples), sorting)
        found.append((name, clock, cores, looped(outcome, call, resamples)))
        print(f"{name}: {clock:.1f} s ({cores:.1f} of all cores), looped {found[-1][3]:.0f} s", file=sys.stderr)
    for name, outcome in (("all of 2 classes in one pass", two), ("all of 4 classes in one pass", four)):
        found.append((name, *timed(families_of(outcome), rows, resamples), float("nan")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = measure(asked.rows, asked.resamples)
    rows = [
        f"| {name} | {own:.1f} | {used:.1f} | {'–' if loop != loop else f'{loop:.0f}'} | "
        f"{'–' if loop != loop else f'{loop / own:.0f}'} |"
        for name, own, used, loop in found
    ]
    text = "\n".join([
        "# Speed of intervals", "",
        f"{datetime.date.today()}, Python {sys.version.split()[0]}, NumPy {np.__version__}, scikit-learn "
        f"{sklearn.__version__}, {cores} cores. {asked.resamples:,} bootstrap resamples of {asked.rows:,} rows, sorting and "
        f"drawing included. scikit-learn is called on the drawn rows of {LOOPED} resamples, and scaled. "
        f"The machine's load was {os.getloadavg()[0]:.1f} at the end. `python benchmarks/metrics_speed.py`", "",
        "| family | ours, s | ours, s of all cores | scikit-learn looped, s | ratio |", "|---|---|---|---|---|", *rows, "",
    ])
    if not asked.no_write:
        path = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "metrics_speed.md"
        path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
