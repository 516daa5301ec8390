"""learn2learn's own MAML on the same scorer: a loop over cloned modules, to check against."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.torch.inner_loop import Episodes, Loss, masked_mean, pointwise_loss
from metarec.torch.scorer import Parameters, depth

MISSING = (
    "learn2learn is not installed, and learner.engine=learn2learn needs it. A plain install fails "
    "on Python 3.11 and newer: run `make learn2learn`, or `pip install --no-deps --use-pep517 -r "
    "requirements/learn2learn.txt` with a C compiler; the engines gram and vmap need nothing."
)


def import_learn2learn() -> Any:
    """Imports learn2learn without its dependencies' warnings; LearnerError says how to get it."""
    # gym, which it imports, warns through `warnings` and by printing to stderr
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            import learn2learn
        except ImportError as error:
            raise LearnerError(f"{MISSING} ({error})") from error
    return learn2learn


class Module(torch.nn.Module):
    """The scorer as a module, for libraries that want one.

    Args:
        parameters: `layer<i>.weight` [in, out] and `layer<i>.bias` [out].
    """

    def __init__(self, parameters: Parameters) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for layer in range(depth(parameters)):
            weight = parameters[f"layer{layer}.weight"]
            module = torch.nn.Linear(weight.shape[0], weight.shape[1], dtype=weight.dtype)
            module.weight = torch.nn.Parameter(weight.detach().T.clone())
            module.bias = torch.nn.Parameter(parameters[f"layer{layer}.bias"].detach().clone())
            layers += [torch.nn.ReLU(), module] if layer else [module]
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, in] to [N] scores."""
        scores: Tensor = self.layers(inputs).squeeze(-1)
        return scores

    def named(self) -> dict[str, torch.nn.Parameter]:
        """The parameters by the scorer's names; weights are transposed, [out, in]."""
        linears = [module for module in self.layers if isinstance(module, torch.nn.Linear)]
        return {
            f"layer{layer}.{name}": value
            for layer, module in enumerate(linears)
            for name, value in module.named_parameters()
        }


def query_scores_learn2learn(
    module: Module,
    episodes: Episodes,
    *,
    loss: Loss,
    steps: int,
    learning_rate: float,
    first_order: bool = False,
) -> Tensor:
    """[T, Q] scores of the queries: for each task a learn2learn clone, its steps, a forward pass.

    Args:
        module: holds the meta-parameters; gradients flow into it.
        episodes: T episodes.
        loss: of the inner loop.
        steps: inner steps.
        learning_rate: of the inner loop.
        first_order: do not differentiate through the inner gradients.

    Returns:
        [T, Q] scores.

    Raises:
        LearnerError: if learn2learn is not installed.
    """
    maml = import_learn2learn().algorithms.MAML(module, lr=learning_rate, first_order=first_order)
    scores = []
    for task in range(len(episodes.query)):
        clone = maml.clone()
        for _ in range(steps):
            losses = pointwise_loss(
                loss, clone(episodes.support[task]), episodes.support_labels[task]
            )
            clone.adapt(masked_mean(losses, episodes.support_mask[task]))
        scores.append(clone(episodes.query[task]))
    return torch.stack(scores)
