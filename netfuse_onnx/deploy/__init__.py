"""`netfuse-onnx export`: writes what other servers load: a repository of Triton, an app of Ray Serve.

In: a bundle, or a merged file. Out: a folder or a file that runs there by itself.
"""
