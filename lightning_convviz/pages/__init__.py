"""Plain data -> one picture each: no model, no Lightning, no state.

A page takes tensors, probes, names and scales, and lays them out with what `render` has; what it says of them travels
with the file as facts.
"""
