"""Text fields: titles, years, genres, and what counts as missing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.data.fields import genres, plain_text, split_titles, text_frame


@pytest.mark.parametrize(
    ("written", "title", "year"),
    [
        ("Toy Story (1995)", "Toy Story", "1995"),
        ("Shanghai Triad (Yao a yao yao) (1995)", "Shanghai Triad (Yao a yao yao)", "1995"),
        ("Aladdin and the King of Thieves (1996) (V)", "Aladdin and the King of Thieves", "1996"),
        ("Fargo (2014–2017)", "Fargo", "2014"),
        ("Fargo (2014- )", "Fargo", "2014"),
        ("2001: A Space Odyssey (1968) ", "2001: A Space Odyssey", "1968"),
        ("Babylon 5", "Babylon 5", None),
        (None, None, None),
    ],
)
def test_title_and_year_are_split(written, title, year):
    assert split_titles([written]) == ([title], [year])


@given(
    st.from_regex(r"[A-Za-z0-9:',]+( [A-Za-z0-9:',]+)*", fullmatch=True), st.integers(1900, 2099)
)
def test_any_title_is_found_again_after_its_year_is_split_off(title, year):
    assert split_titles([f"{title} ({year})"]) == ([title], [str(year)])


def test_genres_are_separated_by_commas_and_none_listed_is_missing():
    assert genres(["Action|Comedy", "Drama", "(no genres listed)", "", None, np.nan]) == [
        "Action, Comedy",
        "Drama",
        None,
        None,
        None,
        None,
    ]


def test_missing_empty_and_blank_text_is_none():
    frame = text_frame(
        {"a": [None, np.nan, "", "  ", pd.NA, " x "], "year": [1995.0, 1, 2, 3, 4, 5]}
    )
    assert frame["a"].tolist() == [None] * 5 + ["x"]
    assert frame["year"].tolist() == ["1995", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("Salt &amp; <b>Pepper</b>", "Salt & Pepper"),
        ("one<br />two\n\t three", "one two three"),
        ("<style>.a{b}</style>kept<script>var x = '<b>';</script>", "kept"),
        ("<script>never closed", ""),
        ("&lt;i&gt;escaped twice&amp;nbsp;&lt;/i&gt; &amp;amp; so on", "escaped twice & so on"),
        ("1 < 2, <3 and AT&T", "1 < 2, <3 and AT&T"),
        ("plain", "plain"),
    ],
)
def test_html_is_made_plain(markup, plain):
    assert plain_text(markup) == plain
