"""`netfuse-onnx plan-fleet`: which models to merge with each other, and how many replicas run where.

In: models with rates, machines with memory, measured costs, a latency target. Out: a plan, and the latency
that a simulation of it shows. It imports nothing of the compiler.
"""
