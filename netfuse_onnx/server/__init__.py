"""`netfuse-onnx serve`: the Open Inference Protocol, over HTTP and gRPC, in front of a MergedSession.

In: requests of clients for single models, or for the family. Out: what the models themselves would answer. It
imports the runtime and nothing of the compiler.
"""
