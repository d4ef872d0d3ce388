"""The gaps of other runtimes than ONNX Runtime that --portable works around, each with a version that has it.

tests/test_portable.py shows those of runtimes that are installed, and fails when one is gone.
"""

from __future__ import annotations

OPENCV_ONE_MATRIX = "OpenCV 5.0"
"""In a product [N, B, S, K] x [N, 1, K, O] with stored matrices, OpenCV takes the first model's for all,
without an error."""

OPENCV_EINSUM = "OpenCV 5.0"
"""OpenCV writes past the end of a table when it reads an Einsum of several letters: an error or a crash."""
