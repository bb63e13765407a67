"""Whether a model applies: thirty small patients as the cohort, and others that are altered."""

import dataclasses
import json

import numpy as np
import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.case_facts import CaseFacts
from cdm_nnunet.nnunet.cohort import Cohort
from cdm_nnunet.nnunet.quantities import lengths_of
from cdm_nnunet.nnunet.reference_cases import LEVELS, Distribution, ReferenceCases
from cdm_nnunet.prediction_record import NOT_COMPARED, Applicability, Finding
from cdm_nnunet.roi import Catalogue, Roi, pack, to_words

CATALOGUE = Catalogue(
    (
        Roi("PTV_High", "target"),
        Roi("PTV_Low", "target"),
        Roi("Parotid_L", "oar", "Parotid_R"),
        Roi("Parotid_R", "oar", "Parotid_L"),
        Roi("Cord", "oar"),
        Roi("External", "external"),
    )
)
SHAPE, SPACING_MM = (24, 24, 28), (3.0, 4.0, 4.0)
LEVELS_GY = {"PTV_High": 70.0, "PTV_Low": 56.0}
WHERE = np.stack(np.indices(SHAPE), -1)


def ellipsoid(centre, radii) -> np.ndarray:
    return (((WHERE - np.asarray(centre)) / np.asarray(radii)) ** 2).sum(-1) <= 1


def patient(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """CT and masks, each ROI shifted and stretched a little; every third patient has one level only."""
    rng = np.random.default_rng(seed)

    def near(centre, radii):
        return ellipsoid(np.add(centre, rng.normal(0, 0.4, 3)), np.multiply(radii, rng.normal(1, 0.05, 3)))

    high = near((11, 12, 14), (4, 3, 4))
    body = near((11.5, 12, 14), (60, 11, 13))
    masks = {
        "PTV_High": high,
        "PTV_Low": high | near((12, 12, 14), (7, 4, 6)),
        "Parotid_L": near((15, 12, 22), (4, 3, 3)),
        "Parotid_R": near((15, 12, 6), (4, 3, 3)),
        "Cord": near((11, 18, 14), (60, 1.6, 1.6)),
        "External": body,
    }
    if seed % 3 == 0:
        del masks["PTV_Low"]
    return np.where(body, rng.normal(30 + rng.normal(0, 8), 40, SHAPE), -1000).astype(np.float32), masks


def measured(ct_hu, masks, spacing_mm=SPACING_MM, levels=LEVELS_GY) -> CaseFacts:
    shape = ct_hu.shape
    map_gy = np.zeros(shape, np.float32)
    for name, level in sorted(levels.items(), key=lambda item: item[1]):
        if name in masks:
            map_gy[masks[name]] = level
    packed = np.stack([masks.get(name, np.zeros(shape, bool)) for name in CATALOGUE.names])
    words = to_words(pack(packed), len(packed))
    return CaseFacts.measure(np.concatenate([np.stack([ct_hu, map_gy]), words]), spacing_mm, CATALOGUE)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    made = Cohort.of([measured(*patient(seed)) for seed in range(30)])
    return Cohort.model_validate_json(json.dumps(made.to_json()))  # (as plans hold it)


def compared(cohort, ct_hu, masks, **options) -> Applicability:
    return cohort.compare(measured(ct_hu, masks, **options), CATALOGUE)


def told(found: Applicability, *parts: str) -> bool:
    return any(all(part in note for part in parts) for note in found.notes)


def test_a_patient_of_the_same_kind_is_inside(cohort):
    statuses = [compared(cohort, *patient(seed)).status for seed in range(100, 112)]
    assert statuses.count("inside") >= 11
    found = compared(cohort, *patient(100))
    assert (found.compared, found.n_training, found.findings) == ("distributions", 30, [])


def test_exchanged_sides_are_outside(cohort):
    ct_hu, masks = patient(101)
    masks["Parotid_L"], masks["Parotid_R"] = masks["Parotid_R"], masks["Parotid_L"]
    found = compared(cohort, ct_hu, masks)
    assert found.status == "outside"
    assert told(found, "outside: 'Parotid_L' lies", "to the right of the body's centre", "are sides exchanged?")
    (one,) = [finding for finding in found.findings if finding.text.startswith("'Parotid_L' lies")]
    assert (one.percentile, one.unit) == (0.0, "mm")
    assert one.value < 0 < one.training[0]
    del masks["Parotid_R"]
    assert compared(cohort, ct_hu, masks).status == "outside"


@pytest.mark.parametrize(("factor", "words"), [(0.6, "0.6"), (1.6, "1.6")])
def test_another_size_is_told_where_the_voxels_are_as_usual(cohort, factor, words):
    ct_hu, masks = patient(102)
    facts = measured(ct_hu, masks, spacing_mm=tuple(factor * mm for mm in SPACING_MM))
    found = cohort.compare(dataclasses.replace(facts, spacing_mm=SPACING_MM), CATALOGUE)
    assert found.status == "outside"
    assert told(found, f"the organs are {words}", "times as large", "is the voxel size right?")


@pytest.mark.parametrize(("name", "is_named"), [("PTV_High", True), ("Cord", False)])
def test_a_target_of_a_fifth_of_the_least_volume_is_named_by_its_range(cohort, name, is_named):
    facts = measured(*patient(105))
    small_cc = cohort.volume_cc[name][0] / 5
    found = cohort.compare(dataclasses.replace(facts, volumes_cc={**facts.volumes_cc, name: small_cc}), CATALOGUE)
    assert told(found, f"unusual: '{name}' has", " cc (in training ") == is_named


def test_half_a_patient_is_outside(cohort):
    ct_hu, masks = patient(103)
    found = compared(cohort, ct_hu[:12], {name: mask[:12] for name, mask in masks.items()})
    assert found.status == "outside"
    assert told(found, "'PTV_High' reaches the first or last plane of the image (in 0 of 30 training patients)")
    assert not told(found, "'Cord' reaches")  # (it does in all)


def test_a_missing_target_is_outside_if_the_others_never_were_without_it(cohort):
    ct_hu, masks = patient(104)
    without = {name: mask for name, mask in masks.items() if name != "PTV_High"}
    found = compared(cohort, ct_hu, without)
    assert found.status == "outside"
    assert told(found, "'PTV_High' is not contoured, and was in all 30 training cases")
    assert told(found, "'PTV_High' has no prescription", "all 20 training patients with 'PTV_Low'")
    del masks["PTV_Low"]  # (as in every third training patient)
    assert not told(compared(cohort, ct_hu, masks), "PTV_Low")


def test_another_prescription_is_outside_and_a_close_one_unusual(cohort):
    def status(factor):
        levels = {name: factor * gy for name, gy in LEVELS_GY.items()}
        return compared(cohort, *patient(106), levels=levels).status

    assert [status(factor) for factor in (1.0, 1.1, 1.5)] == ["inside", "unusual", "outside"]


def test_another_site_is_outside(cohort):
    ct_hu, masks = patient(107)
    found = compared(cohort, ct_hu, {name: masks[name] for name in ("PTV_High", "PTV_Low", "External")})
    assert found.status == "outside"
    assert told(found, "no organ at risk is contoured", "Parotid_L, Parotid_R, Cord", "another site?")


def test_a_shifted_ct_is_told_by_its_organs(cohort):
    ct_hu, masks = patient(108)
    found = compared(cohort, np.where(ct_hu > -500, ct_hu + 150, ct_hu), masks)
    assert found.status in ("unusual", "outside")
    assert told(found, "the CT in the ROIs is 1", "HU higher than that of the training patients", "shifted or scaled?")


def test_few_training_cases_give_no_distributions():
    few = Cohort.of([measured(*patient(seed)) for seed in range(5)])
    assert few.reference is None
    found = compared(few, *patient(100))
    assert (found.compared, found.notes) == ("ranges", ())


def test_plans_of_an_earlier_version_say_what_was_not_compared(cohort):
    """They have the ranges and no distributions; a patient is predicted, with a note."""
    content = cohort.to_json()
    del content["reference"]
    found = compared(Cohort.model_validate(content), *patient(100))
    assert (found.status, found.compared) == ("inside", "ranges")
    assert told(found, "an earlier version and hold ranges only")
    assert NOT_COMPARED.notes[0].endswith("the case was not compared")


def test_a_fine_grid_is_measured_as_a_coarse_one():
    ct_hu, masks = patient(109)
    coarse = measured(ct_hu, masks).geometry
    fine_masks = {name: mask.repeat(3, 0).repeat(4, 1).repeat(4, 2) for name, mask in masks.items()}
    fine = measured(ct_hu.repeat(3, 0).repeat(4, 1).repeat(4, 2), fine_masks, (1.0, 1.0, 1.0)).geometry
    for name in masks:
        assert fine.sizes_mm[name] == pytest.approx(coarse.sizes_mm[name], abs=4)
        assert fine.offsets_mm[name] == pytest.approx(coarse.offsets_mm[name], abs=1)
    assert fine.distances_mm == pytest.approx(coarse.distances_mm, abs=6)
    assert fine.gaps_mm == pytest.approx(coarse.gaps_mm, abs=2)
    assert fine.cut == coarse.cut
    assert fine.hu == pytest.approx(coarse.hu, abs=10)


def test_percentiles_follow_the_training_cases():
    known = Distribution.of(list(range(101)))
    assert known.quantiles == pytest.approx(LEVELS)
    assert [known.percentile(value) for value in (-1, 0, 50, 97.5, 100, 101)] == [0, 0, 50, 97.5, 100, 100]
    # (45 from the median to the 95th percentile: 1.645 standard deviations)
    assert known.score("offset A", 95.0) == pytest.approx(1.645)
    assert known.score("offset A", 5.0) == pytest.approx(-1.645)


def test_limits_hold_for_patients_of_the_same_clinic():
    """Of two hundred others, not many more are beyond the limits than of the cohort's own held-out fifths."""
    reference = ReferenceCases.of([measured(*patient(seed)) for seed in range(60)])
    others = [measured(*patient(seed)) for seed in range(200, 240)]
    high = [max(abs(score) for _, score in reference.scores(case).values()) > reference.score_limit for case in others]
    size = [reference.size.beyond(reference.size.difference(lengths_of(case))) > 1 for case in others]
    ct = [reference.ct.beyond(reference.ct.difference(case.geometry.hu)) > 1 for case in others]
    assert sum(high) + sum(size) + sum(ct) <= 5


def test_outside_is_refused_with_the_way_out():
    found = Applicability.of([Finding(text="no neck", is_outside=True), Finding(text="old")], "ranges", 3)
    assert found.notes == ("outside: no neck", "unusual: old")
    with pytest.raises(InputError, match=r"does not apply to this patient: no neck; .* predict with --allow-outside"):
        found.permitted()
    assert found.permitted(allows_outside=True).allowed
    unusual = Applicability.of([Finding(text="old")], "ranges", 3)
    assert unusual.permitted() is unusual


def split_target(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A patient with both levels, of whom a third target between them was removed: three parts that do not touch."""
    ct_hu, masks = patient(seed)
    masks["PTV_Low"] = ellipsoid((12, 12, 22), (3, 3, 2)) | ellipsoid((12, 12, 6), (3, 3, 2))
    return ct_hu, masks


def with_middle(facts: CaseFacts) -> CaseFacts:
    return dataclasses.replace(facts, prescriptions_gy={**facts.prescriptions_gy, "PTV_Mid": 63.0})


def test_targets_far_apart_are_told_if_others_had_one_between():
    cases = [measured(*patient(seed)) for seed in range(36) if seed % 3]  # (those with both levels)
    alone = Cohort.of(cases)
    known = Cohort.of([*cases, *map(with_middle, cases)])
    facts = measured(*split_target(121))
    assert (facts.geometry.parts, facts.geometry.contact) == (3, 0.0)
    found = known.compare(facts, CATALOGUE)
    assert told(
        found, "the targets lie in 3 separate parts and touch at 0 %", "24 training patients", "is 'PTV_Mid' missing?"
    )
    assert not told(alone.compare(facts, CATALOGUE), "separate parts")  # (no training patient had another target)
    assert not told(known.compare(measured(*patient(121)), CATALOGUE), "separate parts")
    assert not told(known.compare(with_middle(facts), CATALOGUE), "separate parts")


def test_an_organ_that_the_image_cuts_short_is_told():
    """Its height is compared with that of the training patients whose images cut it too."""
    facts = [measured(*patient(seed)) for seed in range(30)]
    assert {("Cord" in case.geometry.cut, case.geometry.sizes_mm["Cord"][0]) for case in facts} == {(True, 72.0)}
    short = {**facts[1].geometry.sizes_mm, "Cord": (20.0, 12.0, 12.0)}
    geometry = dataclasses.replace(facts[1].geometry, sizes_mm=short)
    found = Cohort.of(facts).compare(dataclasses.replace(facts[1], geometry=geometry), CATALOGUE)
    assert told(found, "the height of 'Cord', which the image cuts, is 20 mm, below all 30 training patients")
    whole = dataclasses.replace(geometry, cut=geometry.cut - {"Cord"})
    found = Cohort.of(facts).compare(dataclasses.replace(facts[1], geometry=whole), CATALOGUE)
    assert not told(found, "which the image cuts")


def test_distributions_of_an_earlier_version_say_what_was_not_compared(cohort):
    content = cohort.to_json()
    reference = content["reference"]
    reference["quantities"] = {
        key: known
        for key, known in reference["quantities"].items()
        if key.split()[0] not in ("seen", "lower", "middle", "upper")
    }
    for one in reference["target_sets"]:
        del one["apart"]
    found = compared(Cohort.model_validate(content), *patient(100))
    assert (found.status, found.compared) == ("inside", "earlier distributions")
    assert told(found, "earlier version", "a target is missing between the others", "was not compared")
