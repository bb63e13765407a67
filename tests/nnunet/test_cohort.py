"""Which cases are predicted, and which of their values are reported: against hand-made cases."""

import numpy as np
import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.case_facts import CaseFacts
from cdm_nnunet.nnunet.cohort import Cohort
from cdm_nnunet.nnunet.plans import DosePlans
from cdm_nnunet.roi import Catalogue, Roi, pack, to_words

CATALOGUE = Catalogue(
    (
        Roi("PTV_High", "target"),
        Roi("PTV_Low", "target"),
        Roi("Cord", "oar"),
        Roi("External", "external"),
        Roi("CTV", "target"),
        *(Roi(f"Organ_{k}", "oar") for k in range(12)),  # (the last is in a second word)
    )
)
SPACING_MM = (4.0, 2.0, 2.5)
SHAPE = (10, 12, 14)
LEVELS = {"PTV_High": 70.0, "PTV_Low": 56.0}


def masks(**changed: np.ndarray | None) -> np.ndarray:
    """PTV_High inside PTV_Low, which reaches beyond it; CTV inside PTV_High; Organ_11 in the corner of the body."""
    boxes = {
        "PTV_High": np.s_[3:6, 4:8, 4:8],
        "PTV_Low": np.s_[2:7, 3:9, 3:11],
        "Cord": np.s_[1:9, 9:11, 6:8],
        "External": np.s_[:, 1:11, 1:13],
        "CTV": np.s_[4:5, 5:7, 5:7],
        "Organ_11": np.s_[0:2, 1:3, 1:3],
    }
    made = np.zeros((len(CATALOGUE), *SHAPE), bool)
    for name, box in boxes.items():
        made[(CATALOGUE.bit(name), *box)] = True
    for name, mask in changed.items():
        made[CATALOGUE.bit(name)] = False if mask is None else mask
    return made


def prescription(of: np.ndarray, levels=LEVELS) -> np.ndarray:
    made = np.zeros(SHAPE, np.float32)
    for name, level in sorted(levels.items(), key=lambda item: item[1]):
        made[of[CATALOGUE.bit(name)]] = level
    return made


def ct(seed: int = 0) -> np.ndarray:
    body = masks()[CATALOGUE.bit("External")]
    noise = np.random.default_rng(seed).normal(20, 60, SHAPE)
    return np.where(body, noise, -1000).astype(np.float32)


def channels(ct_hu=None, map_gy=None, bits=None) -> np.ndarray:
    bits = masks() if bits is None else bits
    map_gy = prescription(bits) if map_gy is None else map_gy
    ct_hu = ct() if ct_hu is None else ct_hu
    return np.concatenate([np.stack([ct_hu, map_gy]).astype(np.float32), to_words(pack(bits), len(bits))])


def measure(spacing_mm=SPACING_MM, **changes) -> CaseFacts:
    return CaseFacts.measure(channels(**changes), spacing_mm, CATALOGUE)


@pytest.fixture
def cohort() -> Cohort:
    return Cohort.of([measure(ct_hu=ct(seed)) for seed in range(3)])


class TestFacts:
    def test_volumes_levels_and_percentiles(self):
        facts = measure()
        voxel_cc = 4.0 * 2.0 * 2.5 / 1000
        assert facts.spacing_mm == SPACING_MM
        assert facts.volumes_cc == pytest.approx(
            {
                "PTV_High": 48 * voxel_cc,
                "PTV_Low": 240 * voxel_cc,
                "Cord": 32 * voxel_cc,
                "External": 1200 * voxel_cc,
                "CTV": 4 * voxel_cc,
                "Organ_11": 8 * voxel_cc,
            }
        )
        assert facts.prescriptions_gy == {"PTV_High": 70.0, "PTV_Low": 56.0, "CTV": 70.0}
        inside = ct()[masks().any(0)]
        assert facts.hu == pytest.approx(tuple(np.percentile(inside, (0.5, 50, 99.5))), rel=1e-6)

    def test_a_target_without_a_level_has_none(self):
        """A CTV that reaches beyond the only prescribed target is in voxels without a prescription."""
        bits = masks(CTV=masks()[CATALOGUE.bit("PTV_Low")])
        facts = measure(bits=bits, map_gy=prescription(bits, {"PTV_High": 60.0}))
        assert facts.prescriptions_gy == {"PTV_High": 60.0}

    def test_targets_that_only_touch(self):
        low = masks()[CATALOGUE.bit("PTV_Low")] & ~masks()[CATALOGUE.bit("PTV_High")]
        assert measure(bits=masks(PTV_Low=low)).prescriptions_gy["PTV_Low"] == 56.0

    @pytest.mark.parametrize("swapped", [False, True])
    def test_a_higher_level_around_a_lower_one(self, swapped):
        levels = {"PTV_High": 56.0, "PTV_Low": 70.0} if swapped else LEVELS
        facts = measure(map_gy=prescription(masks(), levels))
        assert facts.prescriptions_gy["PTV_Low"] == levels["PTV_Low"]
        assert facts.prescriptions_gy["PTV_High"] == 70.0  # (the highest level of its voxels is all that is known)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"bits": masks(PTV_High=None, CTV=None), "map_gy": prescription(masks())},
                "does not follow from one dose level",
            ),
            (
                {"bits": masks(PTV_High=None, PTV_Low=None, CTV=None), "map_gy": prescription(masks())},
                r"240 voxels of the prescription map, up to 70 Gy, lie outside all targets",
            ),
            ({"map_gy": np.roll(prescription(masks()), 1, 2)}, r"lie outside all targets"),
            ({"map_gy": np.where(masks()[0], 70, 56) * masks()[1] * np.linspace(0.9, 1.0, 14)}, "does not follow"),
            ({"map_gy": np.full(SHAPE, 70.0)}, "lie outside all targets: it belongs to other ROIs, or is a dose"),
            ({"map_gy": np.zeros(SHAPE)}, "no contoured target has a prescription"),
            ({"map_gy": 100 * prescription(masks())}, r"the prescription of PTV_High is 7000 Gy"),
            ({"map_gy": prescription(masks()) / 35}, r"the prescription of PTV_High is 2 Gy"),
            ({"map_gy": -prescription(masks())}, "does not follow from one dose level"),
            ({"map_gy": np.where(masks()[0], np.nan, prescription(masks()))}, "does not follow from one dose level"),
            ({"ct_hu": ct() + 1024}, r"the lowest CT value is 24 HU: no air anywhere; is the CT shifted"),
            ({"ct_hu": ct() - 1024}, r"CT values from -2024 to .* are not HU"),
            ({"ct_hu": np.zeros(SHAPE)}, r"the lowest CT value is 0 HU: no air anywhere"),
            ({"ct_hu": np.full(SHAPE, np.nan)}, "are not HU"),
            ({"ct_hu": (ct() + 1000) / 4000}, "no air anywhere"),
            ({"spacing_mm": (40.0, 20.0, 25.0)}, "the voxel size is 40 mm"),
            ({"spacing_mm": (0.0, 2.0, 2.5)}, "the voxel size is 0 mm"),
            ({"spacing_mm": (float("nan"), 2.0, 2.5)}, "the voxel size is nan mm"),
            ({"bits": np.zeros((17, *SHAPE), bool), "map_gy": np.zeros(SHAPE)}, "no voxel has an ROI"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, changes, message):
        with pytest.raises(InputError, match=message):
            measure(**changes)

    def test_words_that_were_interpolated_are_refused(self):
        data = channels()
        data[2] *= 0.5
        with pytest.raises(InputError, match="whole numbers"):
            CaseFacts.measure(data, SPACING_MM, CATALOGUE)


class TestCohort:
    def test_a_training_case_is_not_unusual(self, cohort):
        assert cohort.compare(measure(ct_hu=ct(1)), CATALOGUE).status == "inside"
        assert Cohort.model_validate(cohort.to_json()) == cohort

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"map_gy": prescription(masks(), {"PTV_High": 150.0})},
                r"150 Gy for 'PTV_High': the model was trained on 56",
            ),
            ({"map_gy": prescription(masks()) / 3}, r"23.3333 Gy for 'PTV_High': the model was trained on 56 to 70 Gy"),
            ({"spacing_mm": (0.4, 2.0, 2.5)}, r"the voxel size along z is 0.4 mm; the model was trained on 4 mm"),
            ({"ct_hu": np.where(ct() < -500, -1000, ct() + 500)}, r"median of \d+ HU; the model was trained on"),
            ({"ct_hu": np.where(ct() < -500, -1000, ct() / 20)}, r"in training it spanned at least \d+ HU"),
            ({"ct_hu": np.where(ct() < -500, -1000, 0)}, r"CT inside the ROIs lies between 0 and 0 HU; in training it"),
            ({"bits": masks(External=masks()[CATALOGUE.bit("Organ_11")])}, r"'External' has 0.16 cc; the model was"),
            (
                {"bits": masks(External=None)},
                r"'External' \(external\) is not contoured, and was in all 3 training cases",
            ),
        ],
    )
    def test_mistakes_are_refused(self, cohort, changes, message):
        with pytest.raises(InputError, match=message):
            cohort.compare(measure(**changes), CATALOGUE)

    @pytest.mark.parametrize(
        ("changes", "note"),
        [
            (
                {"map_gy": prescription(masks(), {"PTV_High": 66.0, "PTV_Low": 56.0})},
                "unusual: 66 Gy for 'PTV_High' (in training 70 Gy)",
            ),
            ({"spacing_mm": (3.0, 2.0, 2.5)}, "unusual: a voxel size of 3 mm along z (in training 4 mm)"),
            ({"bits": masks(Cord=None)}, "unusual: 'Cord' is not contoured, and was in all 3 training cases"),
            (
                {"bits": masks(Organ_3=masks()[CATALOGUE.bit("Cord")])},
                "unusual: 'Organ_3' is contoured, but was in no training case: the model has not learnt it",
            ),
            (
                {"bits": masks(Organ_11=masks()[CATALOGUE.bit("Cord")])},
                "unusual: 'Organ_11' has 0.64 cc (in training 0.16 cc)",
            ),
        ],
    )
    def test_what_is_outside_the_range_is_named(self, cohort, changes, note):
        assert note in cohort.compare(measure(**changes), CATALOGUE).notes

    def test_a_shift_of_the_ct_that_is_small_is_named(self, cohort):
        (note,) = cohort.compare(measure(ct_hu=np.where(ct() < -500, -1000, ct() + 90)), CATALOGUE).notes
        assert note.startswith("unusual: 50 % of the CT inside the ROIs lie below 1")

    def test_margins_are_not_named(self, cohort):
        facts = measure(map_gy=prescription(masks()) * np.float32(1.015), spacing_mm=(4.3, 2.1, 2.4))
        assert cohort.compare(facts, CATALOGUE).notes == ()

    def test_a_target_that_had_no_prescription_in_training(self):
        """The level of a target inside another is not its own; the training data decide."""
        bits = masks(CTV=masks()[CATALOGUE.bit("PTV_Low")])
        before = Cohort.of([measure(bits=bits, map_gy=prescription(bits, {"PTV_High": 60.0}))])
        after = measure(bits=bits, map_gy=prescription(bits, {"PTV_High": 60.0, "CTV": 50.0}))
        assert "unusual: 'CTV' has a prescription of 50 Gy, and had none in training" in (
            before.compare(after, CATALOGUE).notes
        )

    def test_ranges_span_the_cases(self):
        small = masks(Cord=masks()[CATALOGUE.bit("Organ_11")])
        cases = [
            measure(),
            measure(bits=small),
            measure(map_gy=prescription(masks(), {"PTV_High": 60.0, "PTV_Low": 50.0})),
        ]
        found = Cohort.of(cases)
        assert found.prescription_gy["PTV_High"] == (60.0, 70.0)
        assert found.volume_cc["Cord"] == pytest.approx((0.16, 0.64))
        assert found.contoured["Cord"] == found.n_cases == 3

    @pytest.mark.parametrize("damage", [{"n_cases": 0}, {"hu": [[1, 2]]}, {"prescription_gy": {}}, {"more": 1}])
    def test_a_damaged_section_is_refused(self, cohort, damage):
        plans = object.__new__(DosePlans)
        object.__setattr__(plans, "plans", {"plans_name": "P", "cdm": {"cohort": {**cohort.to_json(), **damage}}})
        with pytest.raises(InputError, match=rf"plans 'P', cohort: {next(iter(damage))}"):
            Cohort.of_plans(plans)
