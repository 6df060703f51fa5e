"""Save the fitted model in MLflow's format, with its signature."""

import sys

import mlflow.sklearn
from mlflow.models import infer_signature
from pipeline import fitted, training

X, y = training()
model = fitted(sys.argv[1])
mlflow.sklearn.save_model(
    model, "model", signature=infer_signature(X, model.predict(X.head())), serialization_format="cloudpickle",
    pip_requirements=[],
)
