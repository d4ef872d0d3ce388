"""Serves a merged file: requests for single models go in, and merged calls go out.

In: the path of a merged file or of a bundle, then requests, each for one model. Out: each request's
outputs, by the names of its own model. It imports numpy and ONNX Runtime, and nothing of the compiler.
"""
