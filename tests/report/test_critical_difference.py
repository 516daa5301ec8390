from __future__ import annotations

import json
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from metarec.errors import RunError
from metarec.report.blocks import Choice
from metarec.report.critical_difference import build_report, main, rankings_of
from metarec.report.ranking import Ranking, from_json, to_json
from metarec.report.ranking_figure import bar_rows, draw, render_ranking
from metarec.report.ranking_table import group_letters, ranking_table

NDCG = "catalogue/ndcg@10"
THREE = (("ease", 0.3), ("maml", 0.45), ("popularity", 0.1))


def ranked(records, blocks="regimes", test="wilcoxon", mixed=False, **given) -> list[Ranking]:
    return rankings_of(records, mixed, Choice(**({"metric": NDCG} | given)), blocks, test)


def mean_of(record, regime):
    frame = record.per_task
    here = (frame["part"] == "test") & (frame["evaluation"] == "main") & frame["adapted"]
    return frame.loc[here & (frame["regime"] == regime)].set_index("task")[NDCG]


def made_up(k=30, blocks=40, test="wilcoxon", seed=0) -> Ranking:
    """A ranking of many learners with names as long as the longest."""
    from metarec.evaluation.ranks import compare_all
    from metarec.report.ranking import Pair, Ranked

    rng = np.random.default_rng(seed)
    values = rng.random((blocks, k)) + np.linspace(0, 1.2, k)
    names = [f"learner {place:02d}" for place in range(k)]
    compared = compare_all(pd.DataFrame(values, columns=names), test=test)
    groups = ("Floor", "Collaborative", "Content", "Transfer", "Meta, gradient-based", "Warm-up")
    return Ranking(
        name="critical_difference",
        metric=NDCG,
        block="task",
        of=("User cold",),
        blocks=blocks,
        k_shot=(10,),
        seeds=5,
        episodes=600,
        learners=tuple(
            Ranked(
                name, f"Prototypical, several {name}", groups[place % 6], float(rank), 1.0, 9.0, 1
            )
            for place, (name, rank) in enumerate(
                zip(compared.learners, compared.mean_ranks, strict=True)
            )
        ),
        pairs=tuple(
            Pair(row.p_holm, row.effect_size, row.wins, row.ties, row.losses)
            for row in compared.pairs.itertuples()
        ),
        cliques=compared.cliques,
        chi_square=compared.omnibus.chi_square,
        f=compared.omnibus.f,
        p=compared.omnibus.p,
        test=test,
        alpha=0.05,
        critical_difference=compared.critical_difference,
        smallest_p=compared.smallest_p,
        left_out=(),
        notes=(),
        sources=(),
    )


@pytest.fixture
def records(make_record):
    """Three learners in two regimes and on item tasks, and some that are lacking somewhere."""
    given = {"regimes": ("user_cold", "warm"), "shots": ()}
    found = []
    for seed in (0, 1):
        for name, quality in THREE:
            found.append(make_record(name, quality, seed=seed, without_steps=0.05, **given))
            found.append(make_record(name, quality, seed=seed, kind="item", shots=()))
        found.append(make_record("melu", 0.2, seed=seed, **given))
        found.append(make_record("maml_jax", 0.45, seed=seed, **given))
        found.append(make_record("maml_jax", 0.45, seed=seed, kind="item", shots=()))
    found.append(make_record("anil", 0.2, seed=0, **given))
    found.append(make_record("anil", 0.2, seed=0, kind="item", shots=()))
    found.append(make_record("tanp", error="ValueError: boom", **given))
    return found


def test_blocks_are_regimes_of_all_kinds_of_tasks_with_their_means(records):
    (ranking,) = ranked(records)
    assert ranking.of == ("Warm", "User cold", "Item tasks, item cold")
    assert [one.label for one in ranking.learners] == ["MAML", "EASE^R", "Popularity"]
    assert [one.mean_rank for one in ranking.learners] == [1, 2, 3]
    assert [one.first for one in ranking.learners] == [3, 0, 0]
    ease = [one for one in records if one.learner == "ease" and one.config.episode.task == "user"]
    expected = np.mean([mean_of(one, "warm").mean() for one in ease])
    assert ranking.learners[1].values[0] == pytest.approx(expected)
    assert (ranking.seeds, ranking.episodes) == (2, 60)


def test_blocks_are_the_tasks_of_each_regime(records):
    rankings = ranked(records, "tasks", learners=("ease", "maml", "popularity"))
    assert [one.name for one in rankings] == [
        *("critical_difference_warm", "critical_difference_user_cold"),
        "critical_difference_item_tasks_item_cold",
    ]
    ranking = rankings[1]
    assert (ranking.block, ranking.of, ranking.blocks) == ("task", ("User cold",), 30)
    means = {
        name: np.mean([mean_of(one, "user_cold") for one in records
                       if one.learner == name and one.config.episode.task == "user"], axis=0)
        for name, _ in THREE
    }  # fmt: skip
    ranks = stats.rankdata(-np.stack([*means.values()]), axis=0)
    for name, rank in zip(means, ranks.mean(axis=1), strict=True):
        (own,) = [one for one in ranking.learners if one.learner == name]
        assert own.mean_rank == pytest.approx(rank)
        assert own.low <= own.mean_rank <= own.high
    pair = stats.wilcoxon(means["maml"] - means["popularity"]).pvalue
    assert ranking.pair(0, 2).p <= min(1, 3 * pair) + 1e-12
    assert ranking.pair(0, 2).wins == (means["maml"] > means["popularity"]).sum()


def test_who_lacks_a_block_or_a_seed_is_left_out_with_the_reason(records):
    (ranking,) = ranked(records)
    assert dict(ranking.left_out) == {
        "TaNP": "its runs failed",
        "MAML, JAX": "computed by another backend as MAML is",
        "MeLU": "no value in Item tasks, item cold",
        "ANIL": "too few seeds (Warm: 1 of 2; User cold: 1 of 2; Item tasks, item cold: 1 of 2)",
    }
    table = ranking_table(ranking)
    for text in (table.to_markdown(), table.to_latex()):
        assert "MeLU: no value in Item tasks, item cold." in text
    texts = " ".join(text.get_text() for text in draw(ranking).texts).replace("\n", " ")
    assert "Left out, for reasons in the table: TaNP; MAML, JAX; MeLU; ANIL." in texts


def test_without_item_tasks_or_with_one_seed_those_are_ranked(records):
    (user,) = ranked(records, tasks=("user",))
    assert "MeLU" in {one.label for one in user.learners}
    assert user.of == ("Warm", "User cold")
    (one_seed,) = ranked(records, seeds=(0,))
    assert "ANIL" in {one.label for one in one_seed.learners}
    assert one_seed.seeds == 1
    (twins,) = ranked(records, learners=("maml", "maml_jax"))
    assert {one.label for one in twins.learners} == {"MAML", "MAML, JAX"}


def test_unadapted_rows_are_ranked_on_demand(records):
    (ranking,) = ranked(records, tasks=("user",), unadapted=True)
    assert "MAML, 0 steps" in {one.label for one in ranking.learners}
    (ranking,) = ranked(records, tasks=("user",))
    assert "MAML, 0 steps" not in {one.label for one in ranking.learners}


def test_a_learner_with_more_seeds_than_the_others_is_ranked_by_theirs(make_record):
    found = [make_record(name, quality, seed=seed) for name, quality in THREE for seed in (0, 1)]
    (without,) = ranked(found)
    (ranking,) = ranked([*found, make_record("ease", 0.9, seed=7)])
    assert ranking.learners == without.learners
    assert ranking.seeds == 2


def test_blocks_of_several_data_sets_splits_and_kinds_of_feedback_have_names_of_their_own(
    make_record,
):
    given = {"regimes": ("user_cold",), "shots": ()}
    found = []
    for name, quality in THREE:
        found.append(make_record(name, quality, **given))
        found.append(make_record(name, quality, data={"name": "other"}, **given))
        found.append(make_record(name, quality, data={"name": "other"}, split={"seed": 1}, **given))
        found.append(make_record(name, quality, feedback="rating", **given))
    (ranking,) = ranked(found)
    name = found[0].config.data.name
    assert sorted(ranking.of) == sorted(
        [
            f"{name}, binary feedback, user cold",
            f"{name}, rating feedback, user cold",
            "other, binary feedback, split.seed 0, user cold",
            "other, binary feedback, split.seed 1, user cold",
        ]
    )
    notes = " ".join(ranking.notes)
    assert (
        f"Data: {name}, split by seed 0; other, split by seed 0; other, split by seed 1." in notes
    )


def test_what_a_general_reader_read_is_called_by_its_own_name(make_record):
    given = {"regimes": ("user_cold",), "shots": ()}
    found = []
    for name, quality in THREE:
        found.append(make_record(name, quality, **given))
        read = {"data": {"name": "recbole"}, "more": {"dataset": "ml-100k"}}
        found.append(make_record(name, quality, **read, **given))
    (ranking,) = ranked(found)
    assert "ml-100k, user cold" in ranking.of
    assert "ml-100k, split by seed 0" in " ".join(ranking.notes)


def test_a_ranking_says_of_each_data_set_whose_values_tuning_chose(make_record):
    given = {"regimes": ("user_cold",), "shots": ()}
    found = []
    for data in ("ml-100k", "ml-1m"):
        tuned = {"data": data, "kind": "binary", "values": {"rate": 0.1}}
        for name, quality in THREE:
            arguments = {"rate": 0.1, "tuned": tuned} if name == "ease" else {"rate": 0.1}
            read = {"data": {"name": data}, "more": {"dataset": data}}
            found.append(make_record(name, quality, arguments=arguments, **read, **given))
    notes = " ".join(ranked(found)[0].notes)
    for data in ("ml-100k", "ml-1m"):
        told = f"{data}, user tasks: on validation of {data} (learner=best/binary/…) for ease"
        assert told in notes


def test_the_order_of_the_records_changes_nothing(records):
    assert ranked(records) == ranked(records[::-1])
    assert ranked(records, "tasks") == ranked(records[::-1], "tasks")


def test_errors_are_ranked_from_below(make_record):
    records = [make_record(name, quality, feedback="rating") for name, quality in
               (("ease", 0.3), ("maml", 0.45))]  # fmt: skip
    (ranking,) = ranked(records, metric="rated/mae")
    assert [one.label for one in ranking.learners] == ["MAML", "EASE^R"]
    assert ranking.pair(0, 1).wins == 4
    assert ranking.pair(0, 1).effect == 1


def test_few_blocks_and_tests_that_cannot_reject_are_warned_of(records, tmp_path):
    (ranking,) = ranked(records)
    assert ranking.cautions == (
        "there are 3 blocks: ranks over fewer than 5 say little.",
        "no pair can differ: over 3 blocks Wilcoxon’s test, after Holm’s correction over 3 pairs, "
        "has no p below 0.75.",
    )
    assert ranking.cliques == ((0, 1, 2),)
    table, figure = ranking_table(ranking), draw(ranking)
    texts = " ".join(text.get_text() for text in figure.texts)
    for text in (table.to_markdown(), table.to_latex(), texts):
        for caution in ranking.cautions:
            assert caution in text.replace("'", "’")
    console = Console(width=80, color_system=None, force_terminal=False)
    with console.capture() as capture:
        build_report(records, tmp_path / "paper", console)
    assert "Warning: critical_difference: there are 3 blocks" in capture.get()
    (nemenyi,) = ranked(records, test="nemenyi")
    assert len(nemenyi.cautions) == 1
    (by_task, *_) = ranked(records, "tasks")
    assert by_task.cautions == ()


def test_the_table_shows_the_test_against_the_best(records):
    ranking = ranked(records, "tasks")[1]
    table = ranking_table(ranking)
    assert table.columns == (
        *("Learner", "Mean rank", "First", "Groups", "p (Holm)", "Effect", "Won/tied/lost"),
    )
    assert table.title.replace("\N{NO-BREAK SPACE}", " ") == (
        f"Mean ranks of {len(ranking.learners)} learners by nDCG@10 over 30 test tasks, "
        "user cold, K = 10"
    )
    first, *others = table.sections[0].rows
    assert [cell.value for cell in first.cells[-3:]] == ["–"] * 3
    for place, row in enumerate(others, start=1):
        pair = ranking.pair(0, place)
        assert row.cells[-1].value == f"{pair.losses}/{pair.ties}/{pair.wins}"
        assert pair.wins + pair.ties + pair.losses == 30
        assert row.cells[-2].value.startswith("−") == (pair.effect > 0.0005)
    assert table.to_latex().isascii()


def test_a_few_regimes_have_a_column_each(records):
    table = ranking_table(ranked(records)[0])
    assert table.columns[1:6] == (
        *("Mean rank", "Warm", "User cold", "Item tasks, item cold", "First"),
    )
    assert table.sections[0].rows[0].cells[1].value.startswith(".4")
    assert table.to_latex().isascii()


@pytest.mark.parametrize("test", ["wilcoxon", "nemenyi"])
def test_learners_share_a_letter_if_and_only_if_they_do_not_differ(test):
    ranking = made_up(12, test=test)
    letters = group_letters(ranking)
    shared = {pair for clique in ranking.cliques for pair in combinations(clique, 2)}
    assert 0 < len(shared) < 66
    for one, other in combinations(range(12), 2):
        assert bool(set(letters[one]) & set(letters[other])) == ((one, other) in shared)


def test_a_small_record_makes_the_same_figure_and_table_again(records, tmp_path):
    first = build_report(records, tmp_path / "one", blocks="tasks")
    files = [str(path) for path in first if path.suffix == ".json"]
    assert main([*files, "--paper", str(tmp_path / "two")]) == 0
    for path in first:
        again = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert again.read_bytes() == path.read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert {path.relative_to(tmp_path / "one").as_posix() for path in first} >= {
        "figures/critical_difference_user_cold.pdf",
        "figures/critical_difference_user_cold.png",
        "tables/critical_difference_user_cold.tex",
        "tables/critical_difference_user_cold.md",
        "records/critical_difference_user_cold.json",
    }


def test_a_small_record_holds_learners_pairs_and_their_source(records):
    (ranking,) = ranked(records, learners=("ease", "maml"), tasks=("user",))
    content = json.loads(to_json(ranking))
    assert content["learners"]["columns"][:2] == ["learner", "label"]
    assert [row[0] for row in content["learners"]["rows"]] == ["maml", "ease"]
    assert content["pairs"]["columns"] == ["p", "effect", "wins", "ties", "losses"]
    (source,) = content["sources"]
    assert source["command"] == (
        "python -m metarec.report.critical_difference results/paper --tasks user "
        "--learners ease maml"
    )
    assert len(source["runs"]["maml"]) == 2
    assert from_json(to_json(from_json(to_json(ranking)))) == from_json(to_json(ranking))


def test_an_infinite_f_survives_the_record(records):
    (ranking,) = ranked(records)
    assert ranking.f is None
    assert "F(2, 4) = ∞" in ranking_table(from_json(to_json(ranking))).to_markdown()


@pytest.mark.parametrize("text", ["{", "{}", '{"learners": 1}', "[]"])
def test_another_file_is_no_record_of_a_ranking(text):
    with pytest.raises(RunError, match="no record of a ranking"):
        from_json(text)


@pytest.mark.parametrize("test", ["wilcoxon", "nemenyi"])
@pytest.mark.parametrize("k", [2, 7, 30])
def test_no_two_texts_of_the_figure_overlap_and_none_leaves_it(k, test):
    figure = draw(made_up(k, test=test))
    renderer = figure.canvas.get_renderer()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    whole = figure.bbox
    for name, box in boxes:
        assert box.x0 >= whole.x0, name
        assert box.x1 <= whole.x1, name
        assert box.y0 >= whole.y0, name
        assert box.y1 <= whole.y1, name
    for (one, first), (other, second) in combinations(boxes, 2):
        # lines of letters touch: what counts is that none lies on another
        inner = [box.padded(-1.5) for box in (first, second)]
        assert not inner[0].overlaps(inner[1]), (one, other)
    names = {text for text, _ in boxes}
    assert {one.label for one in made_up(k).learners} <= names


def test_bars_are_the_groups_of_two_and_more_and_do_not_overlap():
    ranking = made_up(20)
    rows = bar_rows(ranking, room=0.1)
    drawn = [group for row in rows for group in row]
    assert sorted(drawn) == sorted(group for group in ranking.cliques if len(group) > 1)
    ranks = [one.mean_rank for one in ranking.learners]
    for row in rows:
        for one, other in pairwise(row):
            assert ranks[one[-1]] + 0.2 < ranks[other[0]]
    lines = [line for line in draw(ranking).axes[0].get_lines() if line.get_gid() == "group"]
    assert len(lines) == len(drawn)


def test_a_bar_has_a_dot_at_each_member_only():
    ranking = made_up(20, seed=1)
    dots = [line for line in draw(ranking).axes[0].get_lines() if line.get_marker() == "o"]
    sizes = [len(group) for row in bar_rows(ranking) for group in row]
    assert sorted(len(line.get_xdata()) for line in dots) == sorted(sizes)


def test_the_ruler_is_nemenyis_critical_difference():
    ranking = made_up(8, test="nemenyi")
    axes = draw(ranking).axes[0]
    (ruler,) = [line for line in axes.get_lines() if line.get_gid() == "difference"]
    ticks = {int(t.get_text()): t.get_position()[0] for t in axes.texts if t.get_text().isdigit()}
    low, high = min(ticks), max(ticks)
    unit = (ticks[high] - ticks[low]) / (high - low)
    assert np.ptp(ruler.get_xdata()) == pytest.approx(ranking.critical_difference * unit)
    assert f"CD = {ranking.critical_difference:.2f}" in {text.get_text() for text in axes.texts}
    other = draw(made_up(8)).axes[0]
    assert not [line for line in other.get_lines() if line.get_gid() == "difference"]


@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_a_picture_has_the_same_bytes_each_time_and_no_date(suffix):
    one, two = (render_ranking(made_up(5), suffix) for _ in range(2))
    assert one == two
    assert not re.search(rb"CreationDate|ModDate|matplotlib|Matplotlib", one)


def test_a_metric_that_is_undefined_in_other_episodes_is_an_error(make_record):
    def alter(frame):
        return frame.assign(**{NDCG: frame[NDCG].mask(frame["task"] == 3)})

    one, other = make_record("ease"), make_record("maml", alter=alter)
    with pytest.raises(RunError, match=r"undefined in different episodes for 'maml' and 'ease'"):
        ranked([one, other])
    # for all alike, the task is no block
    same = make_record("als", alter=alter)
    assert {one.blocks for one in ranked([other, same], "tasks")} == {29}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learners": ("mamll",)}, "no finished run of 'mamll'; did you mean 'maml'"),
        ({"regimes": ("usercold",)}, "no regime 'usercold' was tested; did you mean 'user_cold'"),
        ({"seeds": (9,)}, r"no finished run with seed 9; there are \[0, 1\]"),
        ({"metric": "catalogue/ndcg"}, "no learner has a test value of 'catalogue/ndcg'"),
        ({"learners": ("maml",)}, "1 learners have a value in each of 3 blocks"),
        ({"regimes": ("warm",)}, r"in each of 1 blocks, .*\(left out: TaNP: .* as the blocks"),
    ],
)
def test_what_cannot_be_ranked_is_an_error_that_says_why(records, given, message):
    with pytest.raises(RunError, match=message):
        ranked(records, **given)


def test_the_command_writes_and_refuses_mixed_versions_unless_told(
    make_record, tmp_path, monkeypatch, capsys
):
    for name, quality in THREE:
        make_record(name, quality, code="1" * 64 if name == "ease" else "2" * 64)
    monkeypatch.chdir(tmp_path)
    given = ["results/paper", "--blocks", "tasks", "--regimes", "user_cold"]
    assert main(given) == 1
    assert "--allow-mixed-versions" in capsys.readouterr().err
    assert not Path("paper").exists()
    assert main([*given, "--allow-mixed-versions"]) == 0
    out = capsys.readouterr().out
    assert "Warning: critical_difference_user_cold: preliminary" in out
    markdown = Path("paper/tables/critical_difference_user_cold.md").read_text()
    assert "code 111111111111 and 222222222222" in markdown
    assert "--blocks tasks --regimes user\\_cold --allow-mixed-versions." in markdown


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["results/nothing"]) == 1
    assert main(["nothing.json"]) == 1
    assert capsys.readouterr().err.count("error: ") == 2
