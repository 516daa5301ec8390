"""Scoring a catalogue for one new user after another, with what is common to all kept.

For a scorer that sees the candidate alone, the first adapted layer's output on the whole catalogue,
`X W0 + b0`, is the same for all users before adaptation. In dual form a user's steps change it by
`(X Xs' + 1) A`, [N, K] by [K, H], so that a user with K shots costs N K (D + H) products there
instead of N D H.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jaxtyping import Float

from metarec.jax.compiled import compiled
from metarec.jax.devices import Devices, everywhere, map_shares, shared_out
from metarec.jax.gram import DualWeights
from metarec.jax.inner_loop import after, frozen, gram_of
from metarec.jax.scorer import Parameters, Scorer, linear, upper

ROWS = 2048
"""Candidates at a time: their hidden values stay in the processor's cache."""


class Catalogue:
    """What is the same of a catalogue for all tasks.

    Args:
        scorer: an MLP by its `dual`, which sees no context.
        parameters: shared weights.
        inputs: [N, in] assembled inputs of the catalogue.
        first: number of the first layer that adapts; the layers below are computed once.
        devices: among which a catalogue of more than `ROWS` candidates is shared out; None to
            compute where the inputs are.
    """

    def __init__(
        self,
        scorer: Scorer,
        parameters: Parameters,
        inputs: Array,
        first: int = 0,
        devices: Devices | None = None,
    ) -> None:
        self.size = len(inputs)
        blocks = max(-(-self.size // ROWS), 1)
        self.mesh = None
        if devices is not None and 1 < len(devices.all) <= blocks:
            self.mesh = devices.mesh(len(devices.all))
            blocks += -blocks % self.mesh.size
        padded = jnp.pad(inputs, ((0, blocks * ROWS - self.size), (0, 0)))
        if self.mesh is not None:
            padded = jax.device_put(padded, shared_out(self.mesh))
            parameters = jax.device_put(dict(parameters), everywhere(self.mesh))
        kept = _kept(scorer, first, parameters, padded)
        self.features, self.before, self.unadapted = kept

    def scores(
        self, support: Array | None, state: DualWeights | None, tasks: int = 1
    ) -> Float[np.ndarray, "tasks n"]:
        """Scores of the catalogue for T tasks.

        Args:
            support: [T, K, features] input of the first adapted layer on the shots.
            state: of the tasks, as `inner_loop.adapt_dual` gives it; None without adaptation.
            tasks: T, where there is no state.

        Returns:
            [T, N] scores.
        """
        if state is None or support is None:
            unadapted = np.asarray(self.unadapted)[: self.size]
            return np.broadcast_to(unadapted, (tasks, self.size))
        if self.mesh is not None:
            support, state = jax.device_put((support, state), everywhere(self.mesh))
        scores = _scores(self.features, self.before, support, state, mesh=self.mesh)
        return np.asarray(scores)[:, : self.size]


def _keep(
    scorer: Scorer, first: int, parameters: Parameters, inputs: Array
) -> tuple[Array, Array, Array]:
    """What is kept: input and output of the first adapted layer, and the unadapted scores."""
    values = frozen(parameters, first, scorer.embed(parameters, inputs))
    before = linear(parameters, first, values)
    return values, before, upper(parameters, before, first + 1)


_kept = compiled(_keep, static=("scorer", "first"))


def _score_blocks(
    features: Array, before: Array, support: Array, state: DualWeights, mesh: Mesh | None
) -> Array:
    """[T, blocks * ROWS] scores, block by block."""

    def blocks_of(features: Array, before: Array, support: Array, state: DualWeights) -> Array:
        def of_block(block: tuple[Array, Array]) -> Array:
            rows, values = block
            return after(values[None], gram_of(rows[None], support), state)

        blocks = tuple(values.reshape(-1, ROWS, values.shape[-1]) for values in (features, before))
        scores = lax.map(of_block, blocks)
        return jnp.moveaxis(scores, 0, 1).reshape(len(support), -1)

    if mesh is None:
        return blocks_of(features, before, support, state)
    each = map_shares(blocks_of, mesh, (True, True, False, False), out_axis=1)
    found: Array = each(features, before, support, state)
    return found


_scores = compiled(_score_blocks, static=("mesh",))
