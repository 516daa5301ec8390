"""How speed is measured: works, interleaved repeats, memory, the table of `experiments/speed.py`.

Nothing here knows a framework. What is timed is in `metarec/torch/speed.py` and its twin in JAX,
each a `metarec.speed.work.Backend`. No result of a run depends on this folder.
"""
