"""A plain FastAPI service, as its documentation writes one: a pydantic model a row, a `def` route run in a thread."""

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel


class Row(BaseModel):
    number_00: float | None
    number_01: float | None
    number_02: float | None
    number_03: float | None
    number_04: float | None
    number_05: float | None
    number_06: float | None
    number_07: float | None
    number_08: float | None
    number_09: float | None
    number_10: float | None
    number_11: float | None
    region: str
    channel: str
    segment: str
    device: str


class Request(BaseModel):
    rows: list[Row]


class Answer(BaseModel):
    predictions: list[str]
    probabilities: list[list[float]]


app = FastAPI()
model = joblib.load("model.joblib")


@app.post("/predict")
def predict(request: Request) -> Answer:
    probabilities = model.predict_proba(pd.DataFrame([row.model_dump() for row in request.rows]))
    labels = model.classes_[probabilities.argmax(axis=1)]
    return Answer(predictions=labels.tolist(), probabilities=probabilities.tolist())
