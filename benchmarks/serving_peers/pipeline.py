"""The models that every service of the benchmark serves, and the rows that it is asked.

Runs in every peer's environment, so it needs scikit-learn, pandas and joblib alone. The same seed gives the same rows, and
the same versions of scikit-learn and NumPy the same model.
"""

import sys

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

NUMBERS = [f"number_{i:02d}" for i in range(12)]
WORDS = {
    "region": ["north", "east", "south", "west", "centre"], "channel": ["shop", "phone", "web", "partner"],
    "segment": ["new", "regular", "large", "public", "lapsed", "unknown"], "device": ["desktop", "mobile", "tablet"],
}
ROWS, SEED = 5000, 7


def table(rows: int, seed: int, missing: float = 0.0) -> pd.DataFrame:
    """Rows with 12 numeric columns of different sizes, all above -1, and 4 categorical ones.

    Parameters
    ----------
    missing
        Share of the numbers that are not there.
    """
    random = np.random.default_rng(seed)
    numbers = np.exp(random.normal(size=(rows, len(NUMBERS))) * 0.8) * np.geomspace(1, 1e4, len(NUMBERS))
    frame = pd.DataFrame(numbers.round(4), columns=NUMBERS)
    frame = frame.mask(random.random(frame.shape) < missing)
    for name, known in WORDS.items():
        frame[name] = random.choice(known, rows)
    return frame


def training() -> tuple[pd.DataFrame, np.ndarray]:
    """What the models learn from: 5,000 rows, 3 % of the numbers missing, and which of two classes they have."""
    frame = table(ROWS, SEED, missing=0.03)
    random = np.random.default_rng(SEED + 1)
    level = np.log(frame[NUMBERS[:4]] / np.geomspace(1, 1e4, len(NUMBERS))[:4]).fillna(0).sum(axis=1)
    score = level + (frame["region"] == "north") + (frame["segment"] == "large") * 1.5 - 0.5
    return frame, np.where(score + random.logistic(size=ROWS) > 0, "stays", "leaves")


def forest() -> BaseEstimator:
    """Imputer, scaler, one-hot and a random forest of 100 trees."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    prepare = make_column_transformer((numbers, NUMBERS), (OneHotEncoder(handle_unknown="ignore"), list(WORDS)))
    return make_pipeline(prepare, RandomForestClassifier(100, random_state=0))


def function() -> BaseEstimator:
    """A function of one's own on the numbers, which no converter knows, before a quick model: the frame is what costs."""
    numbers = make_pipeline(FunctionTransformer(np.log1p), SimpleImputer(), StandardScaler())
    prepare = make_column_transformer((numbers, NUMBERS), (OneHotEncoder(handle_unknown="ignore"), list(WORDS)))
    return make_pipeline(prepare, LogisticRegression(max_iter=1000))


def linear() -> BaseEstimator:
    """The forest's preparation before a quick model: what is left is mostly the service."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    prepare = make_column_transformer((numbers, NUMBERS), (OneHotEncoder(handle_unknown="ignore"), list(WORDS)))
    return make_pipeline(prepare, LogisticRegression(max_iter=1000))


MODELS = {"forest": forest, "linear": linear, "function": function}


def fitted(name: str) -> BaseEstimator:
    """One of `MODELS`, fitted."""
    return MODELS[name]().fit(*training())


if __name__ == "__main__":  # what a peer that loads a joblib file has for its `prepare.py`
    joblib.dump(fitted(sys.argv[1]), "model.joblib")
