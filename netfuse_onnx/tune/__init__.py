"""tune: what the lowerings of a family cost on the machine at hand: run, remembered, and used by the plan.

In: a family, a runtime, seconds. Out: `Tuned`, a cost for plan.planner.plan.
"""
