"""Families of models to merge: one architecture, several sets of weights.

`python -m sample_models FAMILY --count 4 --out DIR` exports them; see `--help`. This package is a tool
of the repository (tests, benchmarks, demo) and is no part of the installed distribution.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything here imports onnxruntime, which reads it then
