"""The command line, installed as netfuse_onnx.cli. Its commands call the verbs of netfuse_onnx."""
