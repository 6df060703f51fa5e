"""A LitServe server, as its documentation writes one with batching: requests that wait together go through the model once."""

import itertools
import sys

import joblib
import litserve
import pandas as pd


class Model(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load("model.joblib")

    def decode_request(self, request):
        return request["rows"]

    def batch(self, inputs):
        self.sizes = [len(rows) for rows in inputs]
        return [row for rows in inputs for row in rows]

    def predict(self, rows):
        probabilities = self.model.predict_proba(pd.DataFrame(rows))
        return self.model.classes_[probabilities.argmax(axis=1)].tolist(), probabilities.tolist()

    def unbatch(self, output):
        ends = list(itertools.accumulate(self.sizes))
        return [tuple(part[end - size : end] for part in output) for size, end in zip(self.sizes, ends, strict=True)]

    def encode_response(self, output):
        return {"predictions": output[0], "probabilities": output[1]}


if __name__ == "__main__":
    port, workers = int(sys.argv[1]), int(sys.argv[2])
    api = Model(max_batch_size=8, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, generate_client_file=False)
