from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_nnunet.dataset_conversion.splits import make_folds, patients_with_twins, refuse_parted_patients
from cdm_nnunet.errors import InputError


@given(st.integers(2, 40), st.integers(0, 40))
def test_every_fold_is_a_partition_with_two_sides(n_cases, n_published):
    names = {f"c{k}" for k in range(n_cases)}
    folds = make_folds(names, {f"c{k}" for k in range(n_published)})
    assert len(folds) == 5
    for fold in folds:
        assert fold["train"]
        assert fold["val"]
        assert Counter(fold["train"] + fold["val"]) == Counter(names)


@pytest.mark.parametrize("n_cases", [5, 6, 23])
def test_without_a_published_split_every_case_is_validated_once(n_cases):
    folds = make_folds([f"c{k}" for k in range(n_cases)])
    assert Counter(name for fold in folds for name in fold["val"]) == Counter(f"c{k}" for k in range(n_cases))
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


def test_fold_0_is_the_published_split_and_the_others_cover_all():
    folds = make_folds([f"c{k}" for k in range(12)], ["c3", "c11"])
    assert folds[0]["val"] == ["c11", "c3"]
    assert Counter(name for fold in folds[1:] for name in fold["val"]) == Counter(f"c{k}" for k in range(12))


@pytest.mark.parametrize("published", [[], ["a", "b", "c"], ["x"]])
def test_a_published_split_with_an_empty_side_is_not_used(published):
    assert make_folds("abc", published) == make_folds("abc")


def test_folds_depend_on_the_names_only():
    names = [f"c{k}" for k in range(9)]
    assert make_folds(names) == make_folds(reversed(names))
    assert make_folds(names)[0]["val"] != sorted(names)[:2]


def test_one_case_is_refused():
    with pytest.raises(InputError, match="at least two cases, one of them to validate on; there is 1"):
        make_folds(["a"])


def test_a_patient_is_not_for_training_and_for_test():
    patients = {"a1": "a", "a2": "a", "b": "b"}
    refuse_parted_patients({"a1": "Tr", "a2": "Tr", "b": "Ts", "c": "Ts"}, patients)
    with pytest.raises(
        InputError, match="patient 'a' has a case for training, 'a2', and one that is kept from it, 'a1'"
    ):
        refuse_parted_patients({"a1": "Ts", "a2": "Tr", "b": "Tr"}, patients)


def test_one_patient_under_two_names_is_one():
    files = {
        "a": {"imagesTr/a_0000.nii.gz": "ct", "imagesTr/a_0001.nii.gz": "map", "labelsTr/a.nii.gz": "dose"},
        "b": {"imagesTr/b_0000.nii.gz": "other", "imagesTr/b_0001.nii.gz": "map", "labelsTr/b.nii.gz": "dose"},
        "c": {"imagesTs/c_0000.nii.gz": "ct", "imagesTs/c_0001.nii.gz": "map"},
        "d": {"imagesTr/d_0000.nii.gz": "d", "imagesTr/d_0001.nii.gz": "map", "labelsTr/d.nii.gz": "dose d"},
    }
    assert patients_with_twins(files, {}) == {"a": "a", "b": "a", "c": "a", "d": "d"}
    assert patients_with_twins(files, {"b": "p", "d": "p"}) == {"a": "a", "b": "a", "c": "a", "d": "a"}
    folds = make_folds("abd", (), patients_with_twins(files, {}))
    assert all(("a" in fold["train"]) == ("b" in fold["train"]) for fold in folds)
