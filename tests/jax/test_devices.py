"""The devices that JAX makes of a CPU, and a catalogue that they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

COUNTED = """
import json, jax
from metarec.jax.devices import choose_devices
{before}
devices = choose_devices("cpu")
print(json.dumps([len(devices.all), str(devices)]))
"""

SCORED = """
import json
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
from metarec.jax.catalogue import ROWS, Catalogue
from metarec.jax.devices import choose_devices
from metarec.jax.inner_loop import adapt_dual
from metarec.jax.scorer import MLP
from metarec.loops import InnerLoop
from metarec.speed.work import StepWork, step_arrays
work = StepWork(tasks=3, k_shot=4, feature_size=6, hidden_sizes=(8, 4))
parameters, *arrays = step_arrays(work, ragged=True)
scorer, inner = MLP(work.hidden_sizes, context=False), InnerLoop(3, 0.1)
support, state = adapt_dual(scorer, parameters, *arrays[:3], loss="bce", inner=inner)
found = []
for size in (5, 5 * ROWS + 7):
    inputs = np.random.default_rng(1).standard_normal((size, 6), np.float32)
    placed = jax.device_put(inputs, choose_devices("cpu").first)
    for devices in (None, choose_devices("cpu")):
        kept = Catalogue(scorer, parameters, placed, devices=devices)
        lie = len({str(shard.index) for shard in kept.before.addressable_shards})
        scores, unadapted = kept.scores(support, state), kept.scores(None, None, 3)
        found.append([lie, scores.tolist(), unadapted.tolist()])
print(json.dumps(found))
"""


def in_a_process(script: str, **environment: str) -> Any:
    """What a script prints in its last line, in JSON."""
    given = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    given |= {"JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(
        [sys.executable, "-c", script], env=given, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_each_core_is_a_device_as_far_as_threads_are_allowed(asked: int) -> None:
    count = max(min(asked, CORES), 1)
    found = in_a_process(COUNTED.format(before=""), OMP_NUM_THREADS=str(asked))
    assert found == [count, "cpu" if count == 1 else f"cpu ({count} devices)"]


def test_what_jax_was_told_before_counts() -> None:
    told = 'jax.config.update("jax_num_cpu_devices", 3)'
    assert in_a_process(COUNTED.format(before=told))[0] == 3
    flags = "--xla_force_host_platform_device_count=5"
    assert in_a_process(COUNTED.format(before=""), XLA_FLAGS=flags)[0] == 5


def test_where_jax_has_computed_before_its_devices_stay() -> None:
    assert in_a_process(COUNTED.format(before="jax.numpy.zeros(1)"), OMP_NUM_THREADS="2")[0] == 1


def test_a_catalogue_shared_out_over_devices_has_the_scores_of_one() -> None:
    small, also_small, one, four = in_a_process(SCORED)
    assert (small[0], also_small[0], one[0], four[0]) == (1, 1, 1, 4)
    assert small == also_small
    assert np.shape(one[1]) == np.shape(four[1]) == (3, 5 * 2048 + 7)
    for mine, its in zip(four[1:], one[1:], strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-6)
    assert np.abs(np.subtract(one[1], one[2])).max() > 1e-3
