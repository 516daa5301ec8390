"""learn2learn's own MAML on the same scorer: a loop over cloned modules, to check against."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.loops import InnerLoop, Loss
from metarec.torch.inner_loop import Episodes, Rates, masked_mean, pointwise_loss, rate_of
from metarec.torch.scorer import Parameters, Scorer

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
    """Some weights of a scorer as a module, for libraries that want one.

    The given tensors themselves are its parameters, so that gradients flow to them.

    Args:
        scorer: whose weights they are.
        adapted: the weights that adapt.
        others: the weights that do not.
    """

    def __init__(self, scorer: Scorer, adapted: Parameters, others: Parameters) -> None:
        super().__init__()
        self._scorer, self._others = scorer, dict(others)
        for name, value in adapted.items():
            # a name of a parameter must not have a dot
            self._parameters[name.replace(".", "/")] = value  # type: ignore[assignment]

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, in] to [N] scores."""
        named = {name.replace("/", "."): value for name, value in self._parameters.items()}
        return self._scorer.forward({**self._others, **named}, inputs)  # type: ignore[dict-item]


def query_scores_learn2learn(
    scorer: Scorer,
    parameters: Parameters,
    episodes: Episodes,
    *,
    loss: Loss,
    inner: InnerLoop,
    rates: Rates | None = None,
    names: frozenset[str] | None = None,
    every_step: bool = False,
) -> Tensor:
    """Scores of the queries after the steps: for each task a learn2learn clone and its steps.

    With one learning rate `learn2learn.algorithms.MAML`; with rates by weight, learn2learn's
    `clone_module` and `update_module`.

    Args:
        scorer: whose weights adapt.
        parameters: shared weights; gradients flow to them.
        episodes: T episodes.
        loss: of the inner loop.
        inner: its settings.
        rates: learning rates by weight; None for `inner.learning_rate`.
        names: the weights that adapt; None for all.
        every_step: return the scores after each step.

    Returns:
        [T, Q] scores, or [steps, T, Q].

    Raises:
        LearnerError: if learn2learn is not installed.
    """
    learn2learn = import_learn2learn()
    adapted = {name: value for name, value in parameters.items() if names is None or name in names}
    others = {name: value for name, value in parameters.items() if name not in adapted}
    module = Module(scorer, adapted, others)
    maml = learn2learn.algorithms.MAML(
        module, lr=inner.learning_rate, first_order=inner.first_order
    )
    scores: list[Tensor] = []
    for task in range(len(episodes.query)):
        clone = maml.clone() if rates is None else learn2learn.clone_module(module)
        for step in range(inner.steps):
            losses = pointwise_loss(
                loss, clone(episodes.support[task]), episodes.support_labels[task]
            )
            value = masked_mean(losses, episodes.support_mask[task])
            if rates is None:
                clone.adapt(value)
            else:
                learn2learn.update_module(
                    clone, _updates(clone, value, adapted, inner, rates, step)
                )
            if every_step or step + 1 == inner.steps:
                scores.append(clone(episodes.query[task]))
    by_task = torch.stack(scores).unflatten(0, (len(episodes.query), -1))
    return by_task.transpose(0, 1) if every_step else by_task[:, 0]


def _updates(
    clone: torch.nn.Module,
    loss: Tensor,
    adapted: Parameters,
    inner: InnerLoop,
    rates: Rates,
    step: int,
) -> list[Tensor]:
    gradients = torch.autograd.grad(
        loss, list(clone.parameters()), create_graph=not inner.first_order
    )
    return [
        -rate_of(rates, inner, name, step) * gradient
        for name, gradient in zip(adapted, gradients, strict=True)
    ]
