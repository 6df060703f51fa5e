"""A stage that counts slowly and shows made-up figures: what the browser tests fill in, run and look at."""

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from mlworkbench.core.errors import InputError, problem
from mlworkbench.core.evidence import Evidence, figure_style, figure_svg
from mlworkbench.core.jobs import report
from mlworkbench.core.results import Result
from mlworkbench.core.stages import Advanced, Setting, stage


def curve(ylabel):
    with matplotlib.rc_context(figure_style()):
        figure = Figure(figsize=(4.4, 3.2))
        axes = figure.subplots()
        axes.plot([0, .02, .1, .3, .6, 1], [0, .5, .78, .93, .99, 1], label="model")
        axes.plot([0, 1], [0, 1], "--", color="#767676", linewidth=1, label="chance")
        axes.set(xlabel="false positive rate", ylabel=ylabel)
        axes.legend(loc="lower right")
        return figure_svg(figure)


@dataclass(frozen=True, kw_only=True, repr=False)
class Toy(Result):
    stage: ClassVar[str] = "evaluate"
    auc: float = 0.947
    rows: int = 12480

    def headline(self):
        return "The gate holds" if self.status == "passed" else "The gate does not hold"

    def tiles(self):
        return {"ROC AUC": self.auc, "Accuracy": 0.912, "F1": 0.884, "Rows": self.rows}

    def evidence(self):
        gate = pd.DataFrame({
            "gate": ["roc_auc >= 0.8", "f1.low >= 0.85"], "value": [0.947, 0.871], "margin": [0.147, 0.021],
            "holds": [True, True],
        })
        return [
            Evidence("Gate", table=gate),
            Evidence("ROC curve", svg=curve("true positive rate"), note="Further up and left is better."),
            Evidence("Calibration", svg=curve("observed share"), note="On the diagonal, a probability means itself."),
            Evidence("Trail", text="model  HistGradientBoostingClassifier\ndata   churn.parquet (12,480 rows)"),
        ]


@stage("Is the model good enough to ship?", makes="evaluation")
def evaluate(
    model: str = "latest",
    data: str = "demo",
    target: str = "label",
    *,
    gate: list[str] | None = None,
    positive: str | None = None,
    calibrate: bool = True,
    side: Literal["held out", "all"] = "held out",
    confidence: Annotated[float | None, Field(ge=0.5, le=0.999), Setting("evaluation.confidence")] = None,
    resamples: Annotated[int | None, Field(ge=0, le=100_000), Setting("evaluation.resamples")] = None,
    seed: Annotated[int, Field(ge=0), Advanced()] = 0,
):
    """Evaluate.

    Parameters
    ----------
    model
        a file (.skops), a tag (bentoml:name) or a reference
    data
        a CSV or Parquet file
    target
        the column to predict
    gate
        what must hold, such as roc_auc >= 0.8
    positive
        the class that counts as positive
    calibrate
        draw the calibration curve
    side
        which rows
    confidence
        coverage of the intervals
    resamples
        bootstrap resamples
    seed
        seed of the resampling
    """
    if model == "missing.skops":
        raise InputError(problem("evaluate: model", "the file must be there", repr(model), "Give the path of a .skops file"))
    if model == "broken":
        raise KeyError("estimator")
    if model == "chatty":
        for line in range(3000):
            report(f"line {line}")
            time.sleep(0.01)
    report(f"loading {data} (12,480 rows)", 0.05)
    rounds = 20 if model != "slow" else 3000
    for i in range(rounds):
        report(f"resample {50 * (i + 1)} of {50 * rounds}", 0.1 + 0.9 * (i + 1) / rounds)
        time.sleep(0.02)
    if gate and any("0.99" in line for line in gate):
        reason = "roc_auc >= 0.99 does not hold: 0.947 (0.931 to 0.962)."
        return Toy(name="churn", status="failed", reasons=(reason,))
    return Toy(name="churn")
