"""The model card of a published scorer: how to use it, its quality, data, training and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metarec.data.registry import DATASETS
from metarec.evaluation.significance import bootstrap
from metarec.runs import environment
from metarec.runs.config import RunConfig
from metarec.runs.prepare import Materials
from metarec.runs.store import Metrics, Record
from metarec.splits import GROUPS
from metarec.text import Template
from metarec.text.checkpoint import DEFAULT, ON_HUB, Checkpoint

if TYPE_CHECKING:
    from metarec.torch.scorer_config import ScorerConfig

PRIMARY = "ndcg@10"
RANKING = {
    PRIMARY: "nDCG@10",
    "recall@10": "Recall@10",
    "precision@10": "Precision@10",
    "hr@10": "HR@10",
    "mrr@10": "MRR@10",
    "map@10": "MAP@10",
    "auc": "AUC",
}
"""Metrics of the catalogue that the card shows, and what it calls them."""
ERRORS = {"rated/rmse": "RMSE", "rated/mae": "MAE"}
REGIMES = {
    "warm": "known users, known items",
    "user_cold": "new users, known items",
    "item_cold": "known users, new items",
    "both_cold": "new users, new items",
}
# A reader for any data set: whose the texts are, and under what terms, is not known.
_ANY = ("csv", "recbole")
_SHOTS, _CANDIDATES = 3, 5


def model_card(
    record: Record, materials: Materials, config: ScorerConfig, checkpoint: Checkpoint, name: str
) -> str:
    """Writes the card.

    Args:
        record: of the run that trained the scorer.
        materials: what the run worked on.
        config: what the scorer is.
        checkpoint: the BERT that it began with.
        name: by which the scorer is loaded in the example.

    Returns:
        Metadata and Markdown.
    """
    return "\n\n".join(
        [
            f"---\n{_metadata(record, checkpoint, name)}\n---",
            _title(record, config, checkpoint),
            f"## Use\n\n{_use(materials, config, name)}",
            f"## Quality\n\n{_quality(record)}",
            f"## Data\n\n{_data(record, materials)}",
            f"## Training\n\n{_training(record, checkpoint)}",
            f"## Limits\n\n{_limits(record, config)}",
            f"## Terms\n\n{_terms(materials, checkpoint)}\n",
        ]
    )


def part_of(record: Record) -> str:
    """The part whose numbers are shown: test, or validation where test was not measured."""
    return "test" if "test" in record.metrics else next(iter(record.metrics))


def _metadata(record: Record, checkpoint: Checkpoint, name: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data, part = record.config.data.name, part_of(record)
    evaluation, drawn = record.config.evaluation, ""
    if evaluation.retriever is not None:
        drawn = f", reranking {evaluation.shortlist} candidates of {evaluation.retriever.name}"
    base = {DEFAULT: ON_HUB}.get(checkpoint.name, checkpoint.name)
    results = [
        EvalResult(
            task_type="text-ranking",
            task_name="recommendation" + drawn,
            dataset_type=data,
            dataset_name=f"{_data_title(data)}, {REGIMES[regime]}",
            dataset_config=regime,
            dataset_split=part,
            dataset_args={"k_shot": record.config.shots(regime)[0]},
            metric_type=metric,
            metric_name=title,
            metric_value=metrics[f"catalogue/{metric}"],
        )
        for regime, metrics in record.metrics[part].items()
        for metric, title in RANKING.items()
        if metrics.get(f"catalogue/{metric}") is not None
    ]
    metadata = ModelCardData(
        library_name="metarec",
        pipeline_tag="text-ranking",
        tags=["recommendation", "cold-start", "few-shot", record.learner],
        # what no folder is called
        base_model=base if "/" in base else None,
        license="other",
        license_name="terms-of-data-and-checkpoint",
        model_name=name,
        eval_results=results or None,
    )
    return metadata.to_yaml().strip()


def _title(record: Record, config: ScorerConfig, checkpoint: Checkpoint) -> str:
    arguments = config.arguments
    adapted, layers = arguments["adapted"], arguments["adapted_layers"]
    beside = f" and its top {'layer' if layers == 1 else f'{layers} layers'} (`{adapted}`)"
    beside = {"head": "", "full": " and all of it (`full`)"}.get(adapted, beside)
    reads = {
        "bi": "reads the text of each item on its own",
        "cross": "reads what a user liked and the text of an item in one sequence",
    }[arguments["reads"]]
    return f"""# {record.learner}: items for new users, from text

Told a few items that a user liked, as texts, it scores any other items for that user, as texts: no
user and no item has to be known. A BERT (`{checkpoint.name}`) {reads}; for each user,
{arguments["inner_steps"]} gradient steps adapt the head on it{beside}.
Trained by metarec on {_data_title(record.config.data.name)}."""


def _use(materials: Materials, config: ScorerConfig, name: str) -> str:
    shots, candidates, titles = _examples(materials, config)
    low, high = (f"{end:g}" for end in config.scale)
    labels = {
        "binary": ["1", "1", "0"],
        "implicit": ["1", "1", "1"],
        "rating": [high, high, low],
    }[config.feedback]
    meaning = {
        "binary": "1 (liked) or 0 (not liked)",
        "implicit": "1 (chosen)",
        "rating": f"ratings from {low} to {high}",
    }[config.feedback]
    cross = config.arguments["reads"] == "cross"
    named = f"    titles={_listed(titles)},\n" if cross else ""
    note = " `titles` name the shots in a sentence (`{title_template}`)." if cross else ""
    cut = (
        f"{config.arguments['pair_length']} tokens of a user's and an item's text together"
        if cross
        else f"{config.max_length} tokens"
    )
    return f"""```python
import metarec

scorer = metarec.PretrainedScorer.from_pretrained({json.dumps(name)})
for text, score in scorer.rank(
    shots={_listed(shots)},
    labels=[{", ".join(labels[: len(shots)])}],
    candidates={_listed(candidates)},
{named}    k=3,
):
    print(f"{{score:.3f}}  {{text}}")
```

Labels are {meaning}. Write texts as in training: `{config.template}`; what is beyond
{cut} is cut off.{note.replace("{title_template}", str(config.title_template))}
Without shots (`shots=[], labels=[]`) it scores for anybody. `scorer.scores(…)` gives the score of
every candidate."""


def _examples(materials: Materials, config: ScorerConfig) -> tuple[list[str], list[str], list[str]]:
    """Texts of shots and of candidates, and titles of the shots."""
    split, data = materials.split, materials.dataset
    patterns = [config.template or "", config.title_template or config.template or ""]
    if data.name in _ANY or data.name not in DATASETS:
        # texts that are not known to be anybody's to show
        import pandas as pd

        def invented(pattern: str, numbers: Sequence[int]) -> list[str]:
            template = Template(pattern)
            frame = pd.DataFrame({f: [f"{f} {n}" for n in numbers] for f in template.fields})
            return list(template.render(frame).texts)

        first, rest = range(1, 1 + _SHOTS), range(1 + _SHOTS, 1 + _SHOTS + _CANDIDATES)
        return (
            invented(patterns[0], first),
            invented(patterns[0], rest),
            invented(patterns[1], first),
        )
    counts = np.bincount(data.items, minlength=data.n_items)
    readable = np.array([bool(text) for text in materials.texts])

    def most_popular(group: int, count: int) -> list[int]:
        items = np.flatnonzero(readable & (split.item_group == group))
        return items[np.argsort(-counts[items], kind="stable")][:count].tolist()

    shots, candidates = most_popular(0, _SHOTS), most_popular(2, _CANDIDATES)
    titles = Template(patterns[1]).render(data.item_text).texts
    return (
        [materials.texts[item] for item in shots],
        [materials.texts[item] for item in candidates],
        [titles[item] for item in shots],
    )


def _listed(texts: Sequence[str]) -> str:
    rows = "".join(f"        {json.dumps(text, ensure_ascii=False)},\n" for text in texts)
    return f"[\n{rows}    ]"


def _quality(record: Record) -> str:
    part, config = part_of(record), record.config
    evaluation = config.evaluation
    lines = [
        f"Means over {part} tasks of one run, with {_shots(config)}, over the whole "
        "catalogue of each regime. 0 steps: the same weights without adapting. Chance: the exact "
        "expectation of a constant score on the same tasks. In brackets the 95 % bootstrap "
        "interval over tasks, which says nothing of other seeds and other splits."
    ]
    if part != "test":
        lines.append(
            "Test was not measured; by tasks like these it was decided when to stop the training."
        )
    if evaluation.retriever is not None:
        recalls = ", ".join(
            f"{_number(counts.get('recall'))} ({REGIMES[regime]})"
            for regime, counts in record.content["counts"][part].items()
        )
        lines.append(
            f"`{evaluation.retriever.name}` drew {evaluation.shortlist} candidates for each task, "
            "and the scorer reranked these; the others stay behind them, in the retriever's order. "
            "Chance is a random order of what was drawn. "
            f"Recall of what was drawn, which bounds that of the scorer: {recalls}. The retriever "
            "is not part of this scorer."
        )
    lines.append(_ranking_table(record, part))
    if any(metrics.get("rated/rmse") is not None for metrics in record.metrics[part].values()):
        lines.append(_error_table(record, part))
    lines.append(
        "No baseline stands here: `python experiments/benchmark.py learner=ease` and the like give "
        "theirs on the same episodes, and simple ones are strong wherever items are known."
    )
    return "\n\n".join(lines)


def _shots(config: RunConfig) -> str:
    """The shots of the means, by regime where they differ."""
    shots = {regime: config.shots(regime)[0] for regime in config.regimes}
    if len(set(shots.values())) == 1:
        return f"{next(iter(shots.values()))} shots"
    return " and ".join(f"{count} shots ({REGIMES[regime]})" for regime, count in shots.items())


def _ranking_table(record: Record, part: str) -> str:
    rows = []
    for regime, found in record.metrics[part].items():
        tasks = record.content["counts"][part][regime]["tasks"]
        others = {
            "0 steps": _regime(record.without_adaptation, part, regime, ""),
            "Chance": _regime(record.chance, part, regime, "chance/"),
        }
        own = [_number(found.get(f"catalogue/{metric}")) for metric in RANKING]
        own[0] += _interval(record, part, regime)
        rows.append([f"{REGIMES[regime]} (`{regime}`), {tasks} tasks", "this scorer", *own])
        rows += [["", who, *values] for who, values in others.items() if values]
    return _table(["Regime", "", *RANKING.values()], rows)


def _error_table(record: Record, part: str) -> str:
    rows = []
    for regime, found in record.metrics[part].items():
        before = record.without_adaptation.get(part, {}).get(regime, {})
        for who, metrics in (("this scorer", found), ("0 steps", before)):
            if metrics:
                rows.append([REGIMES[regime], who, *(_number(metrics.get(one)) for one in ERRORS)])
    head = _table(["Regime", "", *ERRORS.values()], rows)
    return f"Error of the ratings, in their unit:\n\n{head}"


def _regime(metrics: Metrics, part: str, regime: str, prefix: str) -> list[str]:
    found = metrics.get(part, {}).get(regime)
    if found is None:
        return []
    return [_number(found.get(f"catalogue/{prefix}{metric}")) for metric in RANKING]


def _interval(record: Record, part: str, regime: str) -> str:
    frame = record.per_task
    rows = (frame["evaluation"] == "main") & frame["adapted"]
    rows &= (frame["part"] == part) & (frame["regime"] == regime)
    rows &= frame["k_shot"] == record.config.shots(regime)[0]
    values = frame.loc[rows, f"catalogue/{PRIMARY}"].to_numpy(np.float64)
    low, high = bootstrap(values[np.isfinite(values)])
    return "" if np.isnan(low) else f" [{_number(low)}, {_number(high)}]"


def _data(record: Record, materials: Materials) -> str:
    config, split, data = record.config, materials.split, materials.dataset
    episode, chosen = config.episode, config.split
    how = f"at points in time ({chosen.validation_from} and {chosen.test_from})"
    if chosen.method in ("melu", "recbole_metarec"):
        how = f"as published (`split.method={chosen.method}`)"
    if chosen.method == "seed":
        how = (
            f"by seed {chosen.seed} ({_percent(chosen.users)} of users, {_percent(chosen.items)} "
            f"of items; {_percent(chosen.warm_holdout)} of warm interactions held out)"
        )
    groups = [
        f"{(split.user_group == code).sum():,} users and {(split.item_group == code).sum():,} items"
        for code in range(len(GROUPS))
    ]
    liked = f", liked from {episode.threshold:g}" if episode.feedback == "binary" else ""
    return _bullets(
        {
            "Data set": f"{_data_title(config.data.name)}: {data.n_users:,} users, "
            f"{data.n_items:,} items, {len(data.users):,} interactions"
            + _core(config.data.min_user_interactions, config.data.min_item_interactions),
            "Terms": data.licence,
            "Checksum": f"`{materials.data_checksum}` (SHA-256 of the data set as read)",
            "Split": f"{how}: known {groups[0]}, validation {groups[1]}, test {groups[2]}; "
            f"{len(split.rows('train')):,} interactions to train on",
            "Episodes": f"new users, {episode.feedback} feedback{liked}; "
            f"{_range(episode.train_k_shot)} shots and {episode.query_size} queries in training, "
            f"{_shots(config)} where measured",
        }
    )


def _training(record: Record, checkpoint: Checkpoint) -> str:
    import yaml

    config, versions = record.config, record.content.get("versions", {})
    arguments = config.learner.what_runs()
    tuned = config.learner.tuned_on
    packages = [name for name in ("python", "metarec", "torch", "jax", "transformers")]
    facts = _bullets(
        {
            "Run": f"`{record.path.name}`",
            "Seed": f"{config.seed} (one seed; the split has its own)",
            **({"Values": f"chosen by tuning on validation of {tuned[0]}"} if tuned else {}),
            "BERT": f"`{checkpoint.name}`, SHA-256 of its files `{checkpoint.content_hash}`",
            "Learned": f"{record.content.get('parameters', 0):,} parameters in "
            f"{record.seconds.get('fit', 0.0):,.0f} s on {record.content.get('device')}",
            "Code": f"commit `{record.commit}`, SHA-256 of the code `{record.code}`; published by "
            f"`{environment.code_hash()}`",
            "Versions": ", ".join(f"{one} {versions[one]}" for one in packages if one in versions),
        }
    )
    return f"{facts}\n\n```yaml\n{yaml.safe_dump(arguments, sort_keys=False).strip()}\n```"


def _limits(record: Record, config: ScorerConfig) -> str:
    episode = record.config.episode
    meant = {
        "rating": "Scores are ratings.",
        "logit": "Scores are logits.",
        "order": "Scores are an order alone: those of two users are not comparable.",
    }
    lines = [
        "One data set, one split, one seed: nothing was measured of other domains and languages.",
        "All that it knows of a user is the shots, and of an item its text.",
        f"It was trained with {_range(episode.train_k_shot)} shots; the numbers above are with "
        f"{episode.k_shot}.",
        meant[config.build("cpu").predicts(config.feedback)],
        "It learned from what users of this data set happened to rate, popularity and fashion of "
        "their time included.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _terms(materials: Materials, checkpoint: Checkpoint) -> str:
    of_bert = "its own; see where it is from"
    if checkpoint.name == DEFAULT:
        of_bert = f"Apache-2.0 ({ON_HUB})"
    return (
        f"The weights were learned from data under these terms: {materials.dataset.licence}. They "
        f"stand beside a copy of the BERT `{checkpoint.name}`, whose licence is {of_bert}. metarec "
        "itself is under the MIT licence."
    )


def _data_title(name: str) -> str:
    if name in _ANY or name not in DATASETS:
        return f"a data set of its own (`{name}`)"
    return f"{DATASETS[name].title} (`{name}`)"


def _core(users: int, items: int) -> str:
    if max(users, items) <= 1:
        return ""
    return f" (users of at least {users} and items of at least {items})"


def _range(shots: int | Sequence[int]) -> str:
    return str(shots) if isinstance(shots, int) else f"{shots[0]} to {shots[1]}"


def _percent(shares: Sequence[float]) -> str:
    return "/".join(f"{100 * share:g}" for share in shares) + " %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _bullets(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- **{name}**: {value}" for name, value in facts.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    aligned = ["---", "---", *["--:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, aligned, *rows))
