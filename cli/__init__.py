"""The command line, installed as netfuse_onnx.cli: a thin skin over the verbs of netfuse_onnx."""
