"""ONNX Runtime: sessions, what is fed to them (offers.py, of sizes from ladder.py), what that takes
(footprint.py), and the gaps that are worked around."""
