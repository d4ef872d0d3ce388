"""ONNX Runtime: sessions, what is fed to them, and the gaps that are worked around."""
