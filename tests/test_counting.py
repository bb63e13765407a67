"""Numbers with their nouns."""

import pytest

from cdm_nnunet.counting import counted


@pytest.mark.parametrize(
    ("n", "nouns", "text"),
    [
        (1, ("case",), "1 case"),
        (2, ("case",), "2 cases"),
        (0, ("case",), "0 cases"),
        (1, ("study", "studies"), "1 study"),
    ],
)
def test_a_number_has_its_noun(n: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(n, *nouns) == text


def test_the_plural_can_be_irregular() -> None:
    assert counted(3, "study", "studies") == "3 studies"
