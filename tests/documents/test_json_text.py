import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet.documents.json_text import parse, places_in

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def offset(text, place):
    """Character offset of a line and column."""
    return sum(len(line) for line in text.split("\n")[: place.line - 1]) + place.line - 1 + place.column - 1


def value_at(value, path):
    for part in path:
        value = value[part]
    return value


@settings(deadline=None)
@given(documents, st.sampled_from([None, 0, 3, "\t"]), st.booleans())
def test_every_value_stands_where_it_is_said_to(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    places = places_in(text)
    assert places.repeated_keys == ()
    decoder = json.JSONDecoder()
    for path, place in places.values.items():
        there, _ = decoder.raw_decode(text, offset(text, place))
        assert there == value_at(value, path)
    for path, place in places.keys.items():
        assert decoder.raw_decode(text, offset(text, place))[0] == path[-1]


@settings(deadline=None)
@given(documents)
def test_no_value_is_forgotten(value):
    def count(part):
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        return 1 + sum(map(count, inner))

    text = json.dumps(value)
    assert len(places_in(text).values) == count(value)
    assert parse(text)[1] is False


def test_repeated_keys_are_told():
    text = '{"a": {"b": 1,\n "b": 2}, "a": 3, "c": ["a", "a"]}'
    assert parse(text)[1] is True
    assert [(path, place.line, place.column) for path, place in places_in(text).repeated_keys] == [
        (("a", "b"), 2, 2),
        (("a",), 2, 11),
    ]


def test_what_is_not_there_is_where_its_parent_is():
    places = places_in('{\n "goals": [{"roi": "Cord"}]}')
    assert places.of(("goals", 0, "metric")) == places.values["goals", 0]
    assert places.of(("name",)) == places.values[()]
    assert places.of(("goals", 0, "roi"), key=True) == places.keys["goals", 0, "roi"]


@pytest.mark.parametrize(
    ("text", "column"), [('{"a": NaN}', 7), ('["NaN", -Infinity]', 9), ('["a\\"Infinity", Infinity]', 17)]
)
def test_constants_that_are_no_json_are_refused_where_they_stand(text, column):
    with pytest.raises(json.JSONDecodeError, match=rf"is not a JSON number: line 1 column {column} "):
        parse(text)
