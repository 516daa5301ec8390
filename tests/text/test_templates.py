from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarec.data.dataset import CleaningReport, Dataset
from metarec.errors import TextError
from metarec.text import Template, default_template

MOVIES = pd.DataFrame(
    {
        "title": ["Heat", "...And Justice for All", None, "  ", "Solaris"],
        "year": [1995.0, 1979.0, 1931.0, np.nan, np.nan],
        "genres": ["Crime, Drama", None, "Comedy", None, ""],
    }
)
PATTERN = "{title}[ ({year})][. Genres: {genres}]"


def dataset(item_text: pd.DataFrame, user_text: pd.DataFrame | None = None) -> Dataset:
    n = len(item_text)
    users = 1 if user_text is None else len(user_text)
    return Dataset(
        name="tiny",
        users=(np.arange(n) % users).astype(np.int32),
        items=np.arange(n, dtype=np.int32),
        ratings=np.ones(n, np.float32),
        times=None,
        user_ids=np.array([f"u{user}" for user in range(users)]),
        item_ids=np.array([f"i{item}" for item in range(n)]),
        item_text=item_text,
        user_text=user_text,
        feedback="implicit",
        rating_scale=None,
        report=CleaningReport(n, n),
    )


def test_a_section_vanishes_with_its_missing_field_and_a_year_is_no_fraction():
    assert Template(PATTERN).render(MOVIES).texts == (
        "Heat (1995). Genres: Crime, Drama",
        "...And Justice for All (1979)",
        "(1931). Genres: Comedy",
        "",
        "Solaris",
    )


def test_missing_values_are_counted_by_field_and_items_without_any_text_under_all():
    missing = Template(PATTERN).render(MOVIES).missing
    assert dict(missing) == {"title": 2, "year": 2, "genres": 3, "all": 1}


def test_separators_after_nothing_but_missing_fields_are_dropped_and_those_of_a_value_are_kept():
    frame = pd.DataFrame({"title": [None, ".hack"], "genres": ["Drama", "Drama"]})
    assert Template("{title}[. Genres: {genres}]").render(frame).texts == (
        "Genres: Drama",
        ".hack. Genres: Drama",
    )


def test_outside_of_sections_a_missing_field_leaves_nothing_and_the_rest_stands():
    frame = pd.DataFrame({"title": ["Heat"], "year": [None]})
    assert Template("Film {title} ({year})!").render(frame).texts == ("Film Heat ()!",)


def test_fixed_words_alone_are_no_text():
    frame = pd.DataFrame({"title": [None]})
    rendered = Template("Film: {title}.").render(frame)
    assert rendered.texts == ("",)
    assert rendered.missing["all"] == 1


def test_doubled_brackets_and_braces_are_meant_as_such():
    frame = pd.DataFrame({"title": ["Heat"]})
    assert Template("[[{title}]] {{{title}}}").render(frame).texts == ("[Heat] {Heat}",)


def test_an_unknown_field_is_named_with_the_nearest_column():
    with pytest.raises(TextError, match=r"no field 'genre'; did you mean 'genres'\?"):
        Template("{title} {genre}").render(MOVIES)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("no field", "has no field"),
        ("", "has no field"),
        ("{title", "character 1: a single '{'"),
        ("title}", "character 6: a single '}'"),
        ("{title}[ ({year})", "not closed"),
        ("{title} {year}]", "character 15: a section closes"),
        ("[{title}[{year}]]", "character 9: a section opens inside another"),
        ("{title}[, film]", "section without a field"),
        ("{title} { }", "field without a name"),
        ("{all}", "'all'"),
    ],
)
def test_a_malformed_pattern_says_what_is_wrong_and_where(pattern, message):
    with pytest.raises(TextError, match=message.replace("(", r"\(").replace("{", r"\{")):
        Template(pattern)


def test_a_frame_without_rows_renders_nothing():
    rendered = Template("{title}").render(MOVIES.iloc[:0])
    assert rendered.texts == ()
    assert dict(rendered.missing) == {"title": 0, "all": 0}


def test_the_default_template_takes_every_column_with_text_and_no_ids():
    frame = pd.DataFrame(
        {
            "item_id": ["1", "2"],
            "genres": ["Drama", None],
            "movie_poster_url": ["a", "b"],
            "year": ["1995", "1996"],
            "title": ["Heat", "Fargo"],
            "leading_actors": ["Al Pacino", None],
            "plot": [None, None],
        }
    )
    template = default_template(dataset(frame))
    assert template is not None
    assert template.fields == ("title", "year", "genres", "leading_actors")
    assert template.render(frame).texts == (
        "Heat (1995). Genres: Drama. Leading actors: Al Pacino",
        "Fargo (1996)",
    )


def test_the_default_template_of_users_labels_what_has_no_title():
    users = pd.DataFrame({"gender": ["F", None], "age": [25, 35]})
    template = default_template(dataset(MOVIES, users), of="users")
    assert template is not None
    assert template.render(users).texts == ("Gender: F. Age: 25", "Age: 35")


def test_there_is_no_default_template_where_there_is_no_text():
    assert default_template(dataset(pd.DataFrame(index=range(3)))) is None
    assert default_template(dataset(pd.DataFrame({"title": [None, " ", np.nan]}))) is None
    assert default_template(dataset(MOVIES), of="users") is None


cell = st.one_of(st.none(), st.just(float("nan")), st.text(max_size=8), st.integers(0, 3000))


@given(rows=st.lists(st.tuples(cell, cell, cell), max_size=8))
def test_every_present_value_is_in_the_text_and_nothing_is_left_of_absent_sections(rows):
    frame = pd.DataFrame(rows, columns=["title", "year", "genres"], dtype=object)
    rendered = Template("{title}[ <year {year}>][ <genres {genres}>]").render(frame)
    assert len(rendered.texts) == len(rows)
    nothing = 0
    absent = {"title": 0, "year": 0, "genres": 0}
    for row, text in zip(rows, rendered.texts, strict=True):
        values = {
            name: None if value is None or value != value else str(value).strip() or None
            for name, value in zip(absent, row, strict=True)
        }
        for name, value in values.items():
            absent[name] += value is None
        clauses = [
            value if name == "title" else f"<{name} {value}>"
            for name, value in values.items()
            if value is not None
        ]
        assert text == " ".join(clauses)
        nothing += not clauses
    assert dict(rendered.missing) == {**absent, "all": nothing}


@given(text=st.text(max_size=30))
def test_doubling_quotes_any_text(text):
    quoted = text
    for bracket in "[]{}":
        quoted = quoted.replace(bracket, 2 * bracket)
    rendered = Template("{title}|" + quoted + "|").render(pd.DataFrame({"title": ["Heat"]}))
    assert rendered.texts == (f"Heat|{text}|",)


@given(pattern=st.text(alphabet="[]{}ab ", max_size=12))
def test_any_pattern_is_a_template_or_a_text_error(pattern):
    try:
        template = Template(pattern)
    except TextError:
        return
    assert template.fields
    assert str(template) == pattern
