"""Rows of many clients in one call of a routed file: python examples/serve_routed.py merged.onnx 8000
curl localhost:8000/predict --json '{"model": "a", "x": [0, 1, 2, 3, 4, 5, 6, 7]}'"""

import sys
from typing import Annotated, Literal

import litserve
import numpy as np
import onnxruntime
from pydantic import BaseModel, Field

import netfuse_onnx

NAMES = netfuse_onnx.inspect(sys.argv[1]).models


class Row(BaseModel):
    """An error in a call hurts all its rows: what is wrong with one is told here, before it joins others."""

    model: Literal[NAMES]
    x: Annotated[list[float], Field(min_length=8, max_length=8)]


class Routed(litserve.LitAPI):
    def setup(self, device):
        self.session = onnxruntime.InferenceSession(sys.argv[1])

    def decode_request(self, request: Row):
        return NAMES.index(request.model), request.x

    def predict(self, rows):
        models, xs = zip(*rows, strict=True)
        feeds = {"model": np.array(models, np.int64), "x": np.array(xs, np.float32)}
        return self.session.run(["y"], feeds)[0].tolist()


if __name__ == "__main__":
    api = Routed(max_batch_size=64, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port=int(sys.argv[2]))
