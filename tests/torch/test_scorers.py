"""Scorers: catalogues and fast weights score as assembled inputs do, and as the formula says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from metarec.errors import LearnerError
from metarec.features import Features
from metarec.inputs import Inputs
from metarec.loops import InnerLoop
from metarec.torch.fusion import Fusion, FusionWeights
from metarec.torch.inner_loop import Episodes, query_scores
from metarec.torch.scorer import LinearScorer, Scorer, build_scorer
from metarec.torch.similarity import Bilinear, Cosine, Dot
from metarec.weights import SOFTENING

NAMES = (
    "mlp", "mlp_item", "cosine", "dot", "bilinear", "fusion_fixed", "fusion_learned",
    "fusion_attention",
)  # fmt: skip
SIMILARITIES = ("cosine", "dot", "bilinear")
TASKS, CANDIDATES, SIZE = 3, 6, 5
EVERY = pytest.mark.parametrize("name", NAMES)
CHANNELS = pytest.mark.parametrize("channels", [1, 2])


def make_inputs(channels: int, size: int = SIZE) -> Inputs:
    """Inputs of user tasks (one channel, no extras), or of item tasks (two, and one extra)."""
    tasks = None if channels == 1 else np.zeros((2, size), np.float32)
    features = Features(np.zeros((4, size), np.float32), tasks)
    return Inputs(features, "binary", {"inputs.mean": np.zeros(size, np.float32)})


def make(name: str) -> Scorer:
    return build_scorer(name, hidden_sizes=(4, 3), embedding_size=4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng([7, seed, *shape]).standard_normal(shape))


def weights_of(scorer: Scorer, inputs: Inputs) -> dict[str, Tensor]:
    """Weights of the shapes of `initial`, none of them at 0, so that a forgotten one is noticed."""
    drawn = scorer.initial(inputs, np.random.default_rng(0))
    return {
        name: 0.7 * draw(*value.shape, seed=number)
        for number, (name, value) in enumerate(drawn.items())
    }


def fast_weights(shared: dict[str, Tensor]) -> dict[str, Tensor]:
    """Different weights for each task."""
    return {
        name: value + 0.5 * draw(TASKS, *value.shape, seed=100 + number)
        for number, (name, value) in enumerate(shared.items())
    }


def draw_catalogue(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts [T, C, D], vectors [N, D] and extras [N, E]."""
    return (
        draw(TASKS, inputs.channels, SIZE),
        draw(CANDIDATES, SIZE),
        draw(CANDIDATES, inputs.extras),
    )


def assembled(scorer: Scorer, context: Tensor, vectors: Tensor, extra: Tensor) -> Tensor:
    """[T, N, in] what the catalogue looks like as episodes."""
    tasks, candidates = len(context), len(vectors)
    return scorer.assemble(
        vectors.expand(tasks, -1, -1),
        context.unsqueeze(1).expand(-1, candidates, -1, -1),
        extra.expand(tasks, -1, -1),
    )


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@EVERY
@CHANNELS
def test_a_catalogue_scores_as_assembled_inputs_whichever_weights_are_fast(
    name: str, channels: int
) -> None:
    scorer, inputs = make(name), make_inputs(channels)
    shared = weights_of(scorer, inputs)
    fast = fast_weights(shared)
    context, vectors, extra = draw_catalogue(inputs)
    rows = assembled(scorer, context, vectors, extra)
    mixtures = [shared, fast, *({**shared, one: fast[one]} for one in shared)]
    mixtures += [{**fast, one: shared[one]} for one in shared]
    for parameters in mixtures:
        scores = scorer.score_catalogue(parameters, context, vectors, extra)
        assert scores.shape == (TASKS, CANDIDATES)
        close(scores, scorer.forward(parameters, rows))


@EVERY
@CHANNELS
def test_a_task_with_fast_weights_scores_as_if_they_were_the_shared_ones(
    name: str, channels: int
) -> None:
    scorer, inputs = make(name), make_inputs(channels)
    fast = fast_weights(weights_of(scorer, inputs))
    rows = assembled(scorer, *draw_catalogue(inputs))
    scores = scorer.forward(fast, rows)
    for task in range(TASKS):
        own = {key: value[task] for key, value in fast.items()}
        close(scores[task], scorer.forward(own, rows[task]))
        close(scores[task], scorer.forward(own, rows)[task])
    close(scores, torch.func.vmap(scorer.forward)(fast, rows))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_follow_their_formulas(name: str) -> None:
    """User tasks: one channel. D=3, S=4 (bilinear: S=D); every number by hand of NumPy."""
    scorer, inputs = make(name), make_inputs(1, size=3)
    parameters = weights_of(scorer, inputs)
    x, c = draw(3, seed=1), draw(3, seed=2)
    score = scorer.forward(parameters, scorer.assemble(x, c[None], draw(0))[None]).item()
    prior, bias = parameters["prior"].numpy(), parameters["bias"].item()
    if name == "bilinear":
        form = parameters["interaction"][0].numpy()
        wanted = form.T @ c.numpy() / 3**0.5 + prior
        assert score == pytest.approx(x.numpy() @ wanted / 3**0.5 + bias)
        return
    projection = parameters["projection"][0].numpy()
    one, other = x.numpy() @ projection, c.numpy() @ projection + prior
    if name == "dot":
        assert score == pytest.approx(one @ other / 4**0.5 + bias)
        return
    lengths = np.sqrt((one @ one + 4 * SOFTENING) * (other @ other + 4 * SOFTENING))
    factor = np.exp(parameters["log_temperature"].item())
    assert score == pytest.approx(factor * (one @ other) / lengths + bias)
    plain = (one @ other) / np.linalg.norm(one) / np.linalg.norm(other)
    assert score == pytest.approx(factor * plain + bias, rel=1e-2), (
        "the softening is no longer small"
    )


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_text_of_a_new_item_has_its_own_projection_and_extras_are_added(name: str) -> None:
    scorer, inputs = make(name), make_inputs(2)
    parameters = weights_of(scorer, inputs)
    context, vectors, extra = draw_catalogue(inputs)
    scores = scorer.score_catalogue(parameters, context, vectors, extra)
    weight = parameters["interaction" if name == "bilinear" else "projection"]
    prior = parameters["prior"]
    scale = SIZE**-0.5 if name == "bilinear" else 1.0
    # what the context asks for may as well be all prior, a task at a time
    for task in range(TASKS):
        wanted = scale * (context[task, 0] @ weight[0] + context[task, 1] @ weight[1]) + prior
        alone = {**parameters, "prior": wanted, "bias": torch.zeros_like(parameters["bias"])}
        plain = scorer.score_catalogue(alone, torch.zeros_like(context), vectors, 0 * extra)
        expected = plain[task] + extra @ parameters["extra"] + parameters["bias"]
        close(scores[task], expected)


@pytest.mark.parametrize("weights", ["fixed", "learned", "attention"])
@CHANNELS
def test_fusion_is_an_mlp_on_a_weighted_sum(weights: FusionWeights, channels: int) -> None:
    scorer, inputs = Fusion((4,), weights), make_inputs(channels)
    parameters = weights_of(scorer, inputs)
    context, vectors, extra = draw_catalogue(inputs)
    scores = scorer.forward(parameters, assembled(scorer, context, vectors, extra))
    for task, row in itertools.product(range(TASKS), range(CANDIDATES)):
        sources = torch.stack([vectors[row], *context[task]])
        if weights == "fixed":
            shares = torch.full((1 + channels,), 1 / (1 + channels), dtype=sources.dtype)
        else:
            logits = parameters["fusion.logits"]
            if weights == "attention":
                query = vectors[row] @ parameters["fusion.query"]
                logits = logits + sources @ parameters["fusion.key"] @ query / len(query) ** 0.5
            shares = logits.exp() / logits.exp().sum()
        z = torch.cat([shares @ sources, extra[row]])
        hidden = torch.relu(z @ parameters["layer0.weight"] + parameters["layer0.bias"])
        expected = hidden @ parameters["layer1.weight"] + parameters["layer1.bias"]
        close(scores[task, row], expected.squeeze())


@EVERY
@CHANNELS
def test_what_a_scorer_embeds_for_the_gram_engine_is_all_that_its_layers_see(
    name: str, channels: int
) -> None:
    scorer, inputs = make(name), make_inputs(channels)
    parameters = weights_of(scorer, inputs)
    rows = assembled(scorer, *draw_catalogue(inputs))
    assert (scorer.dual == "mlp") == any(key.startswith("layer") for key in parameters)
    if scorer.dual != "mlp":
        close(scorer.embed(parameters, rows), rows)
        return
    values = scorer.embed(parameters, rows)
    for layer in range(3):
        weight, bias = parameters[f"layer{layer}.weight"], parameters[f"layer{layer}.bias"]
        values = (torch.relu(values) if layer else values) @ weight + bias
    close(values.squeeze(-1), scorer.forward(parameters, rows))


@pytest.mark.parametrize("name", ["fusion_fixed", "fusion_learned", "fusion_attention"])
@pytest.mark.parametrize("first_order", [False, True])
def test_both_engines_adapt_the_layers_of_fusion_alike(name: str, first_order: bool) -> None:
    scorer, inputs = make(name), make_inputs(2)
    parameters = {key: value.requires_grad_() for key, value in weights_of(scorer, inputs).items()}
    context, vectors, extra = draw_catalogue(inputs)
    rows = assembled(scorer, context, vectors, extra)
    labels = (draw(TASKS, CANDIDATES) > 0).to(rows.dtype)
    mask = torch.ones_like(labels)
    mask[0], mask[1, 2:] = 0, 0
    episodes = Episodes(rows, labels, mask, rows.flip(1), labels.flip(1), torch.ones_like(mask))
    layers = frozenset(key for key in parameters if key.startswith("layer"))
    found = []
    for engine in ("gram", "vmap"):
        scores = query_scores(
            scorer, parameters, episodes, loss="bce", names=layers,
            inner=InnerLoop(steps=3, learning_rate=0.3, first_order=first_order, engine=engine),
        )  # fmt: skip
        weighted = (scores * draw(TASKS, CANDIDATES)).sum()
        found.append((scores, torch.autograd.grad(weighted, list(parameters.values()))))
    close(found[0][0], found[1][0])
    for gram, vmap in zip(found[0][1], found[1][1], strict=True):
        close(gram, vmap)
    assert (found[0][0][1:] - scorer.forward(parameters, rows.flip(1))[1:]).abs().min() > 1e-6, (
        "nothing was adapted"
    )


@CHANNELS
def test_steps_of_a_linear_scorer_move_along_the_gradients_of_its_scores(channels: int) -> None:
    scorer, inputs = Bilinear(), make_inputs(channels)
    assert isinstance(scorer, LinearScorer)
    parameters = weights_of(scorer, inputs)
    rows = assembled(scorer, *draw_catalogue(inputs))
    rows = rows + draw(*rows.shape, seed=1)
    shots = rows[:, 2:]

    def slopes(of: Tensor) -> dict[str, Tensor]:
        return torch.func.jacrev(lambda weights: scorer.forward(weights, of))(parameters)

    by_row, by_shot = slopes(rows), slopes(shots)
    expected = sum(
        torch.einsum("tni,tki->tnk", by_row[name].flatten(2), by_shot[name].flatten(2))
        for name in parameters
    )
    close(scorer.kernel(parameters, rows, shots), expected)
    amounts = draw(*shots.shape[:2], seed=2)
    moves = scorer.moves(parameters, shots, amounts)
    assert moves.keys() == parameters.keys()
    for name, value in parameters.items():
        assert moves[name].shape == (TASKS, *value.shape)
        close(moves[name], torch.einsum("tk...,tk->t...", by_shot[name], amounts))
        # its scores are linear in its weights
        moved = {**parameters, name: value - moves[name]}
        slope = by_row[name].flatten(2)
        far = torch.einsum("tni,ti->tn", slope, moves[name].flatten(1))
        close(scorer.forward(moved, rows), scorer.forward(parameters, rows) - far)


def test_cosine_is_smooth_where_there_is_no_direction() -> None:
    scorer, inputs = Cosine(4), make_inputs(1)
    parameters = {**weights_of(scorer, inputs), "prior": torch.zeros(4, dtype=torch.float64)}
    names = list(parameters)
    rows = torch.zeros(1, 2 * SIZE, dtype=torch.float64)
    half = rows.clone()
    half[0, :SIZE] = 1

    def score(inputs: Tensor, *values: Tensor) -> Tensor:
        return scorer.forward(dict(zip(names, values, strict=True)), inputs).sum()

    for inputs_at in (rows, half):
        point = (inputs_at, *parameters.values())
        assert score(*point).item() == parameters["bias"].item()
        arguments = tuple(range(len(point)))
        first = torch.func.grad(score, argnums=arguments)(*point)
        assert all(value.isfinite().all() for value in first)
        second = torch.func.jacrev(torch.func.grad(score, argnums=arguments), argnums=arguments)(
            *point
        )
        assert all(value.isfinite().all() for line in second for value in line)
    assert first[1 + names.index("prior")].abs().max() > 0, "a prior at 0 learns nothing"


@EVERY
@CHANNELS
def test_without_shots_the_initial_scores_tell_candidates_apart(name: str, channels: int) -> None:
    """K=0: the context of the shots is 0. Also with shots, the first scores are of a sane size."""
    size, tasks, candidates = 384, 20, 50
    scorer, inputs = build_scorer(name), make_inputs(channels, size)
    parameters = {
        key: torch.from_numpy(value).double()
        for key, value in scorer.initial(inputs, np.random.default_rng(0)).items()
    }
    context, vectors = draw(tasks, channels, size), draw(candidates, size)
    for scale in (0.0, 0.3):  # 10 shots: a mean of 10 vectors
        context[:, 0] = scale * draw(tasks, size)
        scores = scorer.score_catalogue(
            parameters, context, vectors, draw(candidates, inputs.extras)
        )
        assert 0.01 < scores.std(dim=1).mean() < 1.5


@EVERY
@CHANNELS
def test_first_and_second_derivatives_are_right(name: str, channels: int) -> None:
    scorer, inputs = make(name), make_inputs(channels)
    parameters = weights_of(scorer, inputs)
    names = list(parameters)
    context, vectors, extra = draw_catalogue(inputs)
    rows = assembled(scorer, context, vectors, extra)[:2, :3]

    def forward(*values: Tensor) -> Tensor:
        return scorer.forward(dict(zip(names, values, strict=True)), rows)

    def catalogue(*values: Tensor) -> Tensor:
        fast = dict(zip(names, values, strict=True))
        return scorer.score_catalogue(fast, context[:2], vectors[:3], extra[:3])

    values = tuple(value.requires_grad_() for value in parameters.values())
    for function in (forward, catalogue):
        assert torch.autograd.gradcheck(function, values, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


@EVERY
def test_initial_weights_are_float32_and_the_same_for_the_same_seed(name: str) -> None:
    scorer, inputs = make(name), make_inputs(2)
    first, again, other = (
        scorer.initial(inputs, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert {value.dtype for value in first.values()} == {np.dtype(np.float32)}
    assert list(first) == list(again)
    assert all((first[key] == again[key]).all() for key in first)
    assert any((first[key] != other[key]).any() for key in first)


@EVERY
@CHANNELS
def test_no_weight_of_a_scorer_is_idle_or_empty(name: str, channels: int) -> None:
    """An idle weight would be saved, tuned and adapted for nothing."""
    scorer, inputs = make(name), make_inputs(channels)
    parameters = {key: value.requires_grad_() for key, value in weights_of(scorer, inputs).items()}
    scores = scorer.forward(parameters, assembled(scorer, *draw_catalogue(inputs)))
    gradients = torch.autograd.grad(scores.square().sum(), list(parameters.values()))
    for key, gradient in zip(parameters, gradients, strict=True):
        assert gradient.numel() > 0, key
        assert gradient.abs().max() > 0, key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", {"layer2.weight", "layer2.bias"}),
        ("mlp_item", {"layer2.weight", "layer2.bias"}),
        ("cosine", {"prior", "extra", "bias", "log_temperature"}),
        ("dot", {"prior", "extra", "bias"}),
        ("bilinear", {"prior", "extra", "bias"}),
        ("fusion_fixed", {"layer2.weight", "layer2.bias"}),
        ("fusion_learned", {"layer2.weight", "layer2.bias"}),
        ("fusion_attention", {"layer2.weight", "layer2.bias"}),
    ],
)
def test_what_anil_adapts(name: str, expected: set[str]) -> None:
    scorer = make(name)
    parameters = weights_of(scorer, make_inputs(2))
    assert scorer.last({**parameters, "rate.something": torch.zeros(1)}) == expected
    own = scorer.last(weights_of(scorer, make_inputs(1)))
    assert own == expected - {"extra"}, "user tasks have no extras"


def test_build_scorer_takes_its_settings() -> None:
    assert build_scorer("cosine", embedding_size=7) == Cosine(7)
    assert build_scorer("dot", embedding_size=7) == Dot(7)
    assert build_scorer("bilinear") == Bilinear()
    assert build_scorer("fusion_attention", hidden_sizes=(9,)) == Fusion((9,), "attention")


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(LearnerError) as caught:
        build_scorer("cosin")
    assert all(name in str(caught.value) for name in ("cosin", *NAMES))
    for wrong in (Dot, Cosine):
        with pytest.raises(LearnerError, match="embedding_size=0"):
            wrong(0)
