"""A prediction log and a reference made by hand, for tests of monitoring without a service."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from handmade_bundle import census_signature, json_rows

from mlworkbench.evaluation.metrics import metric_table
from mlworkbench.evaluation.outcomes import prediction_frame, read_outcome
from mlworkbench.monitoring.logs import LogView
from mlworkbench.monitoring.monitor import Reference
from mlworkbench.serving.log import PredictionLog
from mlworkbench.serving.signature import Signature
from mlworkbench.statistics.profiles import profile_frame

ROOT = Path(__file__).resolve().parent.parent
NOON = "2026-01-31T12:00:00.000000Z"


def census_years() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The demo's people of 2015 and 2016, and of 2017 and 2018; both with `employed`."""
    frame = pd.read_parquet(ROOT / "templates/demo/census_employment.parquet").drop(columns="id")
    early = frame["year"] <= 2016
    return tuple(frame[part].drop(columns="year").reset_index(drop=True) for part in (early, ~early))


def chance_employed(people: pd.DataFrame) -> np.ndarray:
    """A model without a fit: by age and education, about 0.8 as ROC-AUC."""
    age, school = people["age"].to_numpy(), people["education"].fillna(8).to_numpy()
    return 1 / (1 + np.exp(-(3.0 - ((age - 42) / 12) ** 2 + 0.12 * (school - 16))))


def census_reference(people: pd.DataFrame, model: str = "census:1") -> Reference:
    """What a bundle made from these people would know."""
    X, p = people.drop(columns="employed"), chance_employed(people)
    shares, said = np.c_[1 - p, p], np.where(p > 0.5, "yes", "no")
    outcome = read_outcome("binary", people["employed"], said, classes=["no", "yes"], probabilities=shares)
    metrics = metric_table(outcome, resamples=50).set_index("metric").to_dict("index")
    outputs = profile_frame(prediction_frame("binary", said, shares, ["no", "yes"]))
    return Reference(model, census_signature(X), profile_frame(X), outputs, metrics, "yes")


def write_census_log(folder: Path, people: pd.DataFrame, model: str = "census:1") -> list[str]:
    """Log the people as the service would, with their labels fed back; returns the prediction ids."""
    p = chance_employed(people).tolist()
    outputs = [{"prediction": "yes" if q > 0.5 else "no", "probabilities": [1 - q, q]} for q in p]
    return write_log(folder, json_rows(people.drop(columns="employed")), outputs, people["employed"], model)


def write_log(folder: Path, rows: Sequence[dict], outputs: Sequence[dict], labels: Sequence[Any] | None = None,
              model: str = "census:1", at_once: int = 250) -> list[str]:
    """Write predictions in requests of `at_once` rows, and their labels."""
    writer, ids = PredictionLog(folder, model=model), []
    for start in range(0, len(rows), at_once):
        shared = {"time": NOON, "request_id": f"r{start}", "latency_ms": 2.0 + start % 7, "status": 200}
        part = zip(rows[start : start + at_once], outputs[start : start + at_once], strict=True)
        ids += writer.predictions([{"row": i, "inputs": x, "outputs": o, "flags": []} for i, (x, o) in enumerate(part)],
                                  shared)
    if labels is not None:
        writer.labels([{"prediction_id": i, "label": label} for i, label in zip(ids, labels, strict=True)])
    writer.close()
    return ids


def numbers_reference(signature: Signature, frame: pd.DataFrame, say: Callable[[pd.DataFrame], Any]) -> Reference:
    """The reference of a model that is a plain function of the frame."""
    outputs = profile_frame(prediction_frame(signature.task, say(frame), None, signature.classes))
    return Reference("model:1", signature, profile_frame(frame), outputs, {})


def view(folder: Path, model: str = "census:1") -> LogView:
    """The log of one model."""
    return LogView(folder, model)
