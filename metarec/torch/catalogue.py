"""Scoring a catalogue for one new user after another, with what is common to all kept.

For a scorer that sees the candidate alone, the first adapted layer's output on the whole catalogue,
`X W0 + b0`, is the same for all users before adaptation. In dual form a user's steps change it by
`(X Xs' + 1) A`, [N, K] by [K, H], so that a user with K shots costs N K (D + H) products there
instead of N D H.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metarec.torch.gram import DualWeights
from metarec.torch.scorer import Parameters, Scorer, linear
from metarec.weights import depth

ROWS = 2048
"""Candidates at a time: their hidden values stay in the processor's cache."""


class Catalogue:
    """What is the same of a catalogue for all tasks.

    Args:
        scorer: an MLP by its `dual`, which sees no context.
        parameters: shared weights.
        inputs: [N, in] assembled inputs of the catalogue.
        first: number of the first layer that adapts; the layers below are computed once.
    """

    def __init__(
        self, scorer: Scorer, parameters: Parameters, inputs: Tensor, first: int = 0
    ) -> None:
        values = scorer.embed(parameters, inputs)
        for layer in range(first):
            values = torch.relu(linear(parameters, layer, values))
        self.features = values
        self.before = linear(parameters, first, values)
        self.above = tuple(
            (parameters[f"layer{layer}.weight"], parameters[f"layer{layer}.bias"])
            for layer in range(first + 1, depth(parameters))
        )

    @torch.no_grad()
    def scores(self, support: Tensor | None, state: DualWeights | None, tasks: int = 1) -> Tensor:
        """Scores of the catalogue for T tasks.

        Args:
            support: [T, K, features] input of the first adapted layer on the shots.
            state: of the tasks, as `inner_loop.adapt_dual` gives it; None without adaptation.
            tasks: T, where there is no state.

        Returns:
            [T, N] scores.
        """
        if state is None or support is None:
            return self._upper(self.before, self.above).expand(tasks, -1)
        tasks = len(state.output)
        # all tasks' shots side by side: one product with the whole catalogue, which is read once
        gram = (self.features @ support.flatten(0, 1).T).add_(1).unflatten(1, support.shape[:2])
        above = list(zip(state.weights, state.biases, strict=True))
        scores = self.before.new_empty(tasks, len(self.before))
        widths = (self.before.shape[1], *(weight.shape[-1] for weight in state.weights))
        # written over and over: fresh memory costs more than the products in it
        spaces = [self.before.new_empty(min(ROWS, len(self.before)), width) for width in widths]
        for at in range(0, len(self.before), ROWS):
            before = self.before[at : at + ROWS]
            products = gram[at : at + ROWS]
            for task in range(tasks):
                first, *others = (space[: len(before)] for space in spaces)
                values = torch.addmm(
                    before, products[:, task], state.output[task], alpha=-1, out=first
                )
                for (weight, bias), space in zip(above, others, strict=True):
                    values = torch.addmm(bias[task], values.relu_(), weight[task], out=space)
                scores[task, at : at + ROWS] = values.squeeze(-1)
        return scores

    @staticmethod
    def _upper(values: Tensor, layers: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
        for weight, bias in layers:
            values = torch.addmm(bias, torch.relu(values), weight)
        return values.squeeze(-1)
