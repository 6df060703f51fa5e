"""Keep the fitted model in BentoML's store."""

import sys

import bentoml
from pipeline import fitted

bentoml.sklearn.save_model("model", fitted(sys.argv[1]))
