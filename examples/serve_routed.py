"""Serves a routed file: rows of many clients, each for the model it names, run in one call.

pip install litserve netfuse-onnx[cpu]
python examples/serve_routed.py merged.onnx 8000
curl localhost:8000/predict --json '{"model": "a", "x": [0, 1, 2, 3, 4, 5, 6, 7]}'
"""

import sys
from typing import Annotated, Literal

import litserve
import numpy as np
import onnxruntime
from pydantic import BaseModel, Field

import netfuse_onnx

PATH, NAMES = sys.argv[1], netfuse_onnx.inspect(sys.argv[1]).models


class Row(BaseModel):
    """One request. An error in a call is an error of all its rows: so what is wrong with a row is said here,
    before the server puts it beside others (FastAPI answers 422)."""

    model: Literal[NAMES]
    x: Annotated[list[float], Field(min_length=8, max_length=8)]


class Routed(litserve.LitAPI):
    def setup(self, device):
        self.session = onnxruntime.InferenceSession(PATH)

    def decode_request(self, request: Row):
        return NAMES.index(request.model), request.x

    def batch(self, rows):
        models, xs = zip(*rows, strict=True)
        return {"model": np.array(models, np.int64), "x": np.array(xs, np.float32)}

    def predict(self, feeds):
        return self.session.run(["y"], feeds)[0]

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Routed(max_batch_size=64, batch_timeout=0.005), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
