"""Learners in JAX: pure functions, one compiled program for each outer step."""

import logging

# that a machine has no TPU is nothing to report
logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
