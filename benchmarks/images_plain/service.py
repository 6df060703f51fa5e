"""A plain BentoML service, as its documentation writes one for a model of columns, with the image that it asks for."""

import os

import bentoml
import pandas as pd

# a base image of one's own wants `custom`: another word has the distribution's packages installed besides, 600 MB more
image = bentoml.images.Image(base_image=os.environ.get("BASE"), distro="custom", python_version="3.11")
image = image.python_packages(*os.environ.get("PACKAGES", "").split())


@bentoml.service(image=image)
class Model:
    stored = bentoml.models.BentoModel("model:latest")

    def __init__(self) -> None:
        self.model = bentoml.sklearn.load_model(self.stored)

    @bentoml.api
    def predict(self, rows: pd.DataFrame) -> dict:
        probabilities = self.model.predict_proba(rows)
        labels = self.model.classes_[probabilities.argmax(axis=1)]
        return {"predictions": labels.tolist(), "probabilities": probabilities.tolist()}
