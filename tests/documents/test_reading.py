import json
import os
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdm_nnunet.documents import check, json_document, read_json, read_yaml, typed, yaml_document
from cdm_nnunet.errors import InputError


@dataclass(frozen=True)
class Level:
    roi: str
    level_gy: float
    fractions: int = 1


def refusal(tmp_path, text, kind=dict[str, float], read=read_json, **options):
    path = tmp_path / "some.file"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        read(path, kind, "write it again", **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("; write it again")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ").removesuffix("; write it again")


def test_what_is_right_is_read(tmp_path):
    path = tmp_path / "levels.json"
    path.write_text('\ufeff[{"roi": "PTV", "level_gy": 70}]', encoding="utf-8")
    assert read_json(path, list[Level]) == [Level("PTV", 70.0)]
    path.write_text("- roi: PTV\n  level_gy: 66.5  # Gy\n", encoding="utf-8")
    assert read_yaml(path, list[Level]) == [Level("PTV", 66.5)]
    assert typed([{"roi": "PTV", "level_gy": 70.0}], tuple[Level, ...], "plans") == (Level("PTV", 70.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', "line 1, column 9: not JSON: "),
        ("", "line 1, column 1: not JSON: "),
        ('{"a": 1, "b": 2, "a": 3}', "line 1, column 18: a: the key appears twice"),
        ('{"a":\n "1"}', "line 2, column 2: a: Input should be a valid number, not '1'"),
        ('{"a": true}', "line 1, column 7: a: Input should be a valid number, not true"),
        ('{"a": null}', "line 1, column 7: a: Input should be a valid number, not null"),
        ('{"a": {}}', "line 1, column 7: a: Input should be a valid number, not an object"),
        ("[1]", "line 1, column 1: Input should be an object, not a list"),
        ('{"a": NaN}', "line 1, column 7: not JSON: NaN is not a JSON number"),
        ('{"a": 1e999}', "line 1, column 7: a: the number is not finite"),
        ('{"a": 1' + "0" * 5000 + "}", "line 1, column 7: a: the number is not finite"),
        ('{"a": "\\ud800"}', "line 1, column 7: a: the text has a character that is not text"),
        ('{"a\\u0000": 1}', r"line 1, column 1: the name 'a\x00' is not text, or has an invalid character"),
        ("[" * 33 + "]" * 33, "lists or objects are nested too deeply (more than 32)"),
        ("[" * 200_000, "lists or objects are nested too deeply (more than 32)"),
        ('{"a":' * 200_000, "lists or objects are nested too deeply (more than 32)"),
        (
            "{" + ",".join(f'"{n}": {{}}' for n in range(9)) + "}",
            "line 1, column 7: 0: Input should be a valid number, ",
        ),
    ],
)
def test_faults_of_json(tmp_path, text, message):
    assert refusal(tmp_path, text).startswith(message)


def test_a_fault_in_a_dataclass_is_told_by_field(tmp_path):
    text = '[{"roi": "PTV", "level_gy": 70, "fractions": 35.5}, {"roi": 7}]'
    message = refusal(tmp_path, text, list[Level])
    assert message.startswith("line 1, column 46: 0.fractions: Input should be a valid integer")
    assert message.endswith("35.5 (and 2 more)")


def test_files_that_are_none(tmp_path):
    for path, message in (
        (tmp_path / "gone.json", "gone.json is missing; convert again"),
        (tmp_path, " is not a file; convert again"),
        (tmp_path / "pipe", "pipe is not a file; convert again"),
        (tmp_path / "large.json", "large.json has more than 10 bytes"),
        (tmp_path / "latin.json", r"latin.json is not text in UTF-8 \(invalid"),
        (tmp_path / "latin.json" / "below", "below is missing; convert again"),
    ):
        if path.name == "pipe":
            os.mkfifo(path)
        (tmp_path / "large.json").write_text(" " * 11, encoding="utf-8")
        (tmp_path / "latin.json").write_bytes(b'"\xe4"')
        with pytest.raises(InputError, match=message):
            read_json(path, dict[str, float], "convert again", max_bytes=10)


def test_a_message_with_a_fault_in_many_places_is_found_in_a_long_file(tmp_path):
    text = "[" + ",\n".join(f'{{"roi": "r", "level_gy": {n}}}' for n in range(40_000)) + ",\n7]"
    assert refusal(tmp_path, text, list[Level]).startswith("line 40001, column 1: 40000: ")


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Cord: 1\nEye: 2\nCord: 3\n", "line 3, column 1: Cord: the key appears twice"),
        ("{Cord: 1, Cord: 1}", "line 1, column 11: Cord: the key appears twice"),
        (BOMB, "line 1, column 4: a: '&' and '*' (anchors and aliases) are not allowed"),
        ("a: *b", "line 1, column 4: a: '&' and '*' (anchors"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4: a: the tag tag:yaml.org,2002:python"),
        ("a: !!float '1'", "line 1, column 4: a: the tag "),
        ("a: .nan", "line 1, column 4: a: .nan can be read in two ways"),
        ("a: -.INF", "line 1, column 4: a: -.INF can be read in two ways"),
        ("a: 2024-01-31", "line 1, column 4: a: 2024-01-31 can be read in two ways; put a text in quotes"),
        ("2024-01-31 10:00:00: 1", "line 1, column 1: 2024-01-31 10:00:00 can be read"),
        ("a: 1:30", "line 1, column 4: a: 1:30 can be read in two ways"),
        ("a: 070", "line 1, column 4: a: 070 can be read in two ways"),
        ("a: 6_600", "line 1, column 4: a: 6_600 can be read in two ways"),
        ("a: 66,5", "line 1, column 4: a: 66,5 can be read in two ways"),
        ("a: 0x46", "line 1, column 4: a: 0x46 can be read in two ways"),
        ("No: 1", "line 1, column 1: No can be read in two ways"),
        ("a: 1e999", "line 1, column 4: a: the number is not finite"),
        ("7000: 70", "line 1, column 1: the name 7000 is not text; put it in quotes"),
        ("null: 70", "line 1, column 1: the name None is not text; put it in quotes"),
        ("[a, b]: 70", "line 1, column 1: a name is a text, not a list or an object"),
        ("? {a: 1}\n: 70", "line 1, column 3: a name is a text, not a list or an object"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document begins here"),
        ("", "Input should be an object, not null"),
        ("a: seventy", "line 1, column 4: a: Input should be a valid number, not 'seventy'"),
    ],
)
def test_faults_of_yaml(tmp_path, text, message):
    assert refusal(tmp_path, text, read=read_yaml).startswith(message)


@pytest.mark.parametrize("text", ["a: [1", "a: 'b", "a:\tb: c\n\t- x", "\x07", "a: %b", "{a: 1}}"])
def test_what_is_no_yaml_is_refused(tmp_path, text):
    assert "not YAML: " in refusal(tmp_path, text, read=read_yaml)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 10_000, "{a: " * 1000, "[" * 33 + "]" * 33])
def test_yaml_that_is_nested_deeply_is_refused(tmp_path, text):
    assert "nest" in refusal(tmp_path, text, read=read_yaml)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *(("70", 70), ("66.5", 66.5), ("-1e3", -1000.0), ("0", 0), ("0.10", 0.1), ("true", True), ("FALSE", False)),
        *(("~", None), ("", None), ("null", None), ("PTV_7000", "PTV_7000"), ("'70'", "70"), ('"no"', "no")),
        *(("Parotid L", "Parotid L"), ("y", "y"), ("|\n  two\n  lines", "two\nlines"), ("'2024-01-31'", "2024-01-31")),
        *(("N. opticus li", "N. opticus li"), ("1 cm ring", "1 cm ring"), ("3-4-5", "3-4-5"), ("5mm", "5mm")),
    ],
)
def test_values_of_yaml(word, value):
    found = yaml_document(f"a: {word}").value["a"]
    assert (found, type(found)) == (value, type(value))


words = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" "))
scalars = st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(-1e9, 1e9) | words
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=15)


@settings(deadline=None)
@given(values)
def test_json_and_yaml_say_the_same(value):
    text = json.dumps(value, ensure_ascii=False)
    for document in (json_document(text), yaml_document(text)):
        assert document.value == value
        assert document.faults == ()


@settings(deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t019._~\\"))
def test_no_text_is_more_than_a_fault(text):
    for document in (yaml_document(text), json_document(text)):
        checked = check(document, dict[str, str])
        assert (checked.value is None) == bool(checked.faults)
        assert all(str(fault) for fault in checked.faults)
