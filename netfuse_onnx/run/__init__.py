"""ONNX Runtime: sessions, the inputs that are fed to them (offers.py, with sizes from ladder.py), the memory
that a run takes (footprint.py), and the gaps of ONNX Runtime that the compiler works around."""
