"""What a cross-encoder reads: a user's shots in words, and an item that is never cut for them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_checkpoint import SPECIAL, small_encoder

from metarec.errors import TextError
from metarec.learner import Feedback
from metarec.pairs import UserItemPairs
from metarec.text.tokens import Tokenizer

WORDS = ("liked", "disliked", "loved", "hated", "found", "middling", "chose", ".", ":", ";")
TITLES = ("heat", "fargo", "jaws", "", "alien")
TEXTS = ("heat crime", "fargo crime comedy", "jaws sea", "unnamed sea", "alien space space space")
VOCABULARY = (*WORDS, *dict.fromkeys(" ".join((*TITLES, *TEXTS)).split()))


def make(feedback: Feedback = "binary", max_length: int = 24) -> UserItemPairs:
    folder = small_encoder(VOCABULARY, max_length).checkpoint.folder
    return UserItemPairs(Tokenizer(folder, max_length), TITLES, TEXTS, feedback)


def items(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def labels(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def in_words(tokens: list[int]) -> str:
    return " ".join((*SPECIAL, *VOCABULARY)[token] for token in tokens)


def test_a_user_is_what_was_liked_then_what_was_not() -> None:
    text = make().user(items(2, 1, 0), labels(0, 1, 1))
    assert text == "liked: fargo; heat. disliked: jaws."


def test_ratings_are_words_from_the_lowest_fifth_of_the_scale_to_the_highest() -> None:
    text = make("rating").user(items(0, 1, 2, 4), labels(5, 1, 3, 4.5))
    assert text == "loved: alien; heat. found middling: jaws. hated: fargo."
    assert make("implicit").user(items(4, 1), labels(1, 1)) == "chose: alien; fargo."


def test_an_item_without_a_title_is_named_by_its_text() -> None:
    assert make().user(items(3), labels(1)) == "liked: unnamed sea."


def test_without_shots_nothing_is_known_of_a_user() -> None:
    assert make().user(items(), labels()) == ""
    (pair,) = make().of_candidates(items(), labels(), items(0))
    assert in_words(pair.tokens) == "[CLS] [SEP] heat crime [SEP]"
    assert make().of_shots(items(), labels()) == []


def test_a_pair_tells_its_two_texts_apart() -> None:
    (pair,) = make().of_candidates(items(1), labels(0), items(0))
    assert in_words(pair.tokens) == "[CLS] disliked : fargo . [SEP] heat crime [SEP]"
    assert pair.types == [0] * 6 + [1] * 3


def test_a_shot_is_read_beside_the_others_alone() -> None:
    pairs = make().of_shots(items(0, 2), labels(1, 0))
    assert [in_words(pair.tokens) for pair in pairs] == [
        "[CLS] disliked : jaws . [SEP] heat crime [SEP]",
        "[CLS] liked : heat . [SEP] jaws sea [SEP]",
    ]


@pytest.mark.parametrize("feedback", ["binary", "rating"])
@given(order=st.permutations(range(4)))
def test_the_order_of_the_shots_does_not_matter(feedback: Feedback, order: list[int]) -> None:
    shots, rated = items(4, 0, 2, 1), labels(1, 0, 1, 1)
    pairs = make(feedback)
    assert pairs.user(shots[order], rated[order]) == pairs.user(shots, rated)


@given(
    shots=st.lists(st.integers(0, 4), max_size=5, unique=True),
    candidate=st.integers(0, 4),
    max_length=st.integers(8, 40),
)
def test_what_does_not_fit_is_cut_off_the_user_and_the_item_stays_whole(
    shots: list[int], candidate: int, max_length: int
) -> None:
    pairs = make(max_length=max_length)
    (pair,) = pairs.of_candidates(items(*shots), labels(*(1.0 for _ in shots)), items(candidate))
    assert len(pair.tokens) <= max_length
    user, item, end = in_words(pair.tokens).split("[SEP]")
    assert (item.strip(), end) == (TEXTS[candidate], "")
    whole = pairs.user(items(*shots), labels(*(1.0 for _ in shots)))
    spaced = whole.replace(":", " :").replace(";", " ;").replace(".", " .")
    assert f"[CLS] {spaced}".startswith(user.strip())
    # nothing is cut that would have fitted
    assert len(pair.tokens) == min(max_length, 3 + len(spaced.split() + item.split()))


def test_a_character_of_several_tokens_is_not_cut_within(tmp_path: Path) -> None:
    bytes_of_roberta(tmp_path)
    for max_length in range(9, 24):
        (pair,) = Tokenizer(tmp_path, max_length).tokenise_pairs(["ab"], ["\N{ROCKET}" * 20])
        assert len(pair.tokens) <= max_length
        # whole emoji alone, as many as fit beside one token of the user
        specials, emoji = 4, 4
        of_item = pair.tokens[pair.tokens.index(2) + 2 : -1]
        assert len(of_item) == emoji * ((max_length - specials - 1) // emoji)


def bytes_of_roberta(folder: Path) -> None:
    """Writes a tokenizer as RoBERTa has it, of one token for each byte: four for an emoji."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*specials.values(), *letters])}
    fast = Fast(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(tokenizer_object=fast, **specials).save_pretrained(folder)


def test_a_tokenizer_in_python_is_refused_with_a_way_out() -> None:
    tokenizer = Tokenizer(Path("folder"), 20)
    vars(tokenizer)["_loaded"] = SimpleNamespace(is_fast=False)
    with pytest.raises(TextError, match=r"in Python .*: choose learner\.reads=bi"):
        tokenizer.tokenise_pairs(["a"], ["b"])


def test_an_item_that_leaves_no_room_is_cut_off_as_it_would_be_alone() -> None:
    (pair,) = make(max_length=6).of_candidates(items(0), labels(1), items(4))
    assert in_words(pair.tokens) == "[CLS] liked [SEP] alien space [SEP]"
    (pair,) = make(max_length=6).of_candidates(items(), labels(), items(4))
    assert in_words(pair.tokens) == "[CLS] [SEP] alien space [SEP]"
