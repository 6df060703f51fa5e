"""Imports what services are made of, two processes at a time, so that its bytecode is there before any bundle is.

What is compiled here is compiled once for a lock: the builder keeps this layer when only the model changes.
"""

import subprocess
import sys

SERVER = "import bentoml_cli.cli, bentoml_cli.serve, _bentoml_impl.server.app, uvicorn.protocols.http.httptools_impl"
MODEL = """
import importlib
for name in ("numpy", "pandas", "scipy.stats", "scipy.sparse.linalg", "sklearn.pipeline", "sklearn.compose", "sklearn.ensemble",
             "sklearn.linear_model", "skops.io", "onnxruntime", "xgboost", "lightgbm", "torch"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
"""

if __name__ == "__main__":
    # what fails here will fail, and be told, when the service starts
    for process in [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) for script in (SERVER, MODEL)]:
        process.wait()
