"""The engines of the inner loop agree, and agree with mathematics."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metarec.torch import reference
from metarec.torch.inner_loop import Episodes, Loss, adapt, pointwise_loss, query_scores
from metarec.torch.scorer import assemble, forward, score_catalogue

needs_learn2learn = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None,
    reason="learn2learn is not installed (no C compiler?): its parity is not tested",
)
VARIANTS = pytest.mark.parametrize(
    ("loss", "first_order", "steps"),
    [
        (loss, order, steps)
        for loss in ("bce", "mse")
        for order in (False, True)
        for steps in (1, 5)
    ],
)


def draw_parameters(sizes: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    parameters = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = torch.randn(fan_in, fan_out, dtype=torch.float64) / fan_in**0.5
        parameters[f"layer{layer}.weight"] = weight.requires_grad_()
        parameters[f"layer{layer}.bias"] = torch.randn(fan_out, dtype=torch.float64)
        parameters[f"layer{layer}.bias"].requires_grad_()
    return parameters


def draw_episodes(tasks: int = 5, shots: int = 7, queries: int = 6, size: int = 20) -> Episodes:
    """Unequal support sizes, one task without any shot, inputs of padded shots at 0."""
    torch.manual_seed(1)
    kind = torch.float64
    mask = (torch.arange(shots) < torch.tensor([0, 1, 3, 6, 7])[:tasks, None]).to(kind)
    return Episodes(
        support=torch.randn(tasks, shots, size, dtype=kind) * mask[..., None],
        support_labels=(torch.rand(tasks, shots) < 0.5).to(kind) * mask,
        support_mask=mask,
        query=torch.randn(tasks, queries, size, dtype=kind),
        query_labels=(torch.rand(tasks, queries) < 0.5).to(kind),
        query_mask=torch.ones(tasks, queries, dtype=kind),
    )


def mean_loss(loss: Loss, scores: Tensor, episodes: Episodes) -> Tensor:
    return pointwise_loss(loss, scores, episodes.query_labels).mean()


@VARIANTS
def test_gram_and_vmap_agree_in_loss_and_meta_gradient(
    loss: Loss, first_order: bool, steps: int
) -> None:
    parameters, episodes = draw_parameters((20, 8, 8, 1)), draw_episodes()
    results = []
    for engine in ("gram", "vmap"):
        scores = query_scores(
            parameters, episodes, loss=loss, steps=steps, learning_rate=0.1,
            first_order=first_order, engine=engine,
        )  # fmt: skip
        value = mean_loss(loss, scores, episodes)
        results.append((value, torch.autograd.grad(value, list(parameters.values()))))
    (gram, gram_gradient), (vmap, vmap_gradient) = results
    torch.testing.assert_close(gram, vmap, rtol=0, atol=1e-10)
    for ours, theirs in zip(gram_gradient, vmap_gradient, strict=True):
        assert (ours - theirs).norm() <= 1e-8 * theirs.norm()


@needs_learn2learn
@VARIANTS
def test_learn2learn_agrees_in_loss_and_meta_gradient(
    loss: Loss, first_order: bool, steps: int
) -> None:
    parameters, episodes = draw_parameters((20, 8, 8, 1)), draw_episodes()
    settings = {"loss": loss, "steps": steps, "learning_rate": 0.1, "first_order": first_order}
    ours = mean_loss(loss, query_scores(parameters, episodes, **settings), episodes)
    our_gradient = torch.autograd.grad(ours, list(parameters.values()))
    module = reference.Module(parameters)
    scores = reference.query_scores_learn2learn(module, episodes, **settings)
    theirs = mean_loss(loss, scores, episodes)
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    for name, gradient in zip(parameters, our_gradient, strict=True):
        reference_gradient = module.named()[name].grad
        assert reference_gradient is not None
        if name.endswith("weight"):
            reference_gradient = reference_gradient.T
        assert (gradient - reference_gradient).norm() <= 1e-8 * reference_gradient.norm()


@pytest.mark.parametrize("engine", ["gram", "vmap"])
def test_the_second_order_meta_gradient_is_the_slope_of_the_loss(engine: str) -> None:
    parameters, episodes = draw_parameters((20, 8, 8, 1)), draw_episodes()

    def value(parameters: dict[str, Tensor]) -> Tensor:
        scores = query_scores(
            parameters, episodes, loss="bce", steps=3, learning_rate=0.1, engine=engine
        )
        return mean_loss("bce", scores, episodes)

    gradient = torch.autograd.grad(value(parameters), list(parameters.values()))
    torch.manual_seed(2)
    direction = {name: torch.randn_like(value) for name, value in parameters.items()}
    slope = sum(
        (part * direction[name]).sum() for name, part in zip(parameters, gradient, strict=True)
    )
    step = 1e-6

    def shifted(sign: int) -> Tensor:
        return value(
            {name: p.detach() + sign * step * direction[name] for name, p in parameters.items()}
        )

    torch.testing.assert_close(slope, (shifted(1) - shifted(-1)) / (2 * step), rtol=1e-6, atol=1e-9)


def test_first_order_drops_the_second_derivatives_and_only_those() -> None:
    parameters, episodes = draw_parameters((20, 8, 1)), draw_episodes()
    results = {}
    for first_order in (False, True):
        scores = query_scores(
            parameters, episodes, loss="mse", steps=2, learning_rate=0.1, first_order=first_order
        )
        gradient = torch.autograd.grad(
            mean_loss("mse", scores, episodes), list(parameters.values())
        )
        results[first_order] = scores.detach(), gradient
    torch.testing.assert_close(results[False][0], results[True][0])
    assert not torch.allclose(results[False][1][0], results[True][1][0], rtol=1e-3)


@pytest.mark.parametrize("engine", ["gram", "vmap"])
def test_one_step_on_linear_regression_is_the_closed_form(engine: str) -> None:
    parameters, episodes = draw_parameters((20, 1)), draw_episodes()
    fast = adapt(
        parameters, episodes.support, episodes.support_labels, episodes.support_mask,
        loss="mse", steps=1, learning_rate=0.3, engine=engine,
    )  # fmt: skip
    weight, bias = parameters["layer0.weight"], parameters["layer0.bias"]
    for task in range(len(episodes.support)):
        shots = int(episodes.support_mask[task].sum())
        inputs, labels = episodes.support[task, :shots], episodes.support_labels[task, :shots, None]
        residual = (inputs @ weight + bias - labels) / max(shots, 1)
        torch.testing.assert_close(fast["layer0.weight"][task], weight - 0.3 * inputs.T @ residual)
        torch.testing.assert_close(fast["layer0.bias"][task], bias - 0.3 * residual.sum(0))


@pytest.mark.parametrize("engine", ["gram", "vmap"])
def test_padded_shots_and_other_tasks_do_not_matter(engine: str) -> None:
    parameters, episodes = draw_parameters((20, 8, 1)), draw_episodes()

    def run(episodes: Episodes) -> Tensor:
        return query_scores(
            parameters, episodes, loss="bce", steps=3, learning_rate=0.1, engine=engine
        )

    scores = run(episodes)
    garbage = episodes._replace(
        support_labels=torch.where(episodes.support_mask == 1, episodes.support_labels, 7.0),
        support=torch.where(episodes.support_mask[..., None] == 1, episodes.support, 3.0),
    )
    torch.testing.assert_close(run(garbage), scores)
    flipped = Episodes(*(part.flip(0) for part in episodes))
    torch.testing.assert_close(run(flipped).flip(0), scores)


def test_without_shots_and_without_steps_nothing_adapts() -> None:
    parameters, episodes = draw_parameters((20, 8, 1)), draw_episodes()
    unadapted = forward(parameters, episodes.query)
    settings = {"loss": "bce", "learning_rate": 0.1}
    torch.testing.assert_close(query_scores(parameters, episodes, steps=0, **settings), unadapted)
    adapted = query_scores(parameters, episodes, steps=3, **settings)
    torch.testing.assert_close(adapted[0], unadapted[0])
    assert not torch.allclose(adapted[1], unadapted[1])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("fast", [False, True])
def test_scoring_a_catalogue_equals_scoring_assembled_inputs(channels: int, fast: bool) -> None:
    torch.manual_seed(3)
    tasks, candidates, size, extras = 4, 9, 6, channels - 1
    parameters = draw_parameters((size * (1 + 2 * channels) + channels + extras, 8, 1))
    if fast:
        parameters = {
            name: value + 0.1 * torch.randn(tasks, *value.shape, dtype=torch.float64)
            for name, value in parameters.items()
        }
    vectors = torch.randn(candidates, size, dtype=torch.float64)
    context = torch.randn(tasks, channels, size, dtype=torch.float64)
    extra = torch.randn(candidates, extras, dtype=torch.float64)
    every: Callable[[Tensor], Tensor] = lambda x: x.expand(tasks, *x.shape)  # noqa: E731
    inputs = assemble(
        every(vectors),
        context.unsqueeze(1).expand(-1, candidates, -1, -1),
        every(extra),
    )
    torch.testing.assert_close(
        score_catalogue(parameters, context, vectors, extra), forward(parameters, inputs)
    )


def test_learn2learn_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    from metarec.errors import LearnerError

    real = builtins.__import__

    def fail(name: str, *args: object, **kwargs: object) -> object:
        if name == "learn2learn":
            raise ImportError("No module named 'learn2learn'")
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(LearnerError, match=r"requirements/learn2learn\.txt"):
        reference.import_learn2learn()
