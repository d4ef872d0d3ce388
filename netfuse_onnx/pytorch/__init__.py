"""From PyTorch: modules of one class go in, their merged file comes out, proven equal to the modules.

`models.py` reads the modules and runs them, `exporters.py` writes each as an ONNX file, `proof.py` compares
the merged file with them, and `exporting.py` connects these with the stages of a merge. torch is imported in
functions alone.
"""
