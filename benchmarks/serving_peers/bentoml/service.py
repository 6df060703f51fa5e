"""A plain BentoML service, as its documentation writes one for a model of columns."""

import os

import bentoml
import pandas as pd


@bentoml.service(workers=int(os.environ.get("WORKERS", "1")))
class Model:
    stored = bentoml.models.BentoModel("model:latest")

    def __init__(self) -> None:
        self.model = bentoml.sklearn.load_model(self.stored)

    @bentoml.api
    def predict(self, rows: pd.DataFrame) -> dict:
        probabilities = self.model.predict_proba(rows)
        labels = self.model.classes_[probabilities.argmax(axis=1)]
        return {"predictions": labels.tolist(), "probabilities": probabilities.tolist()}
