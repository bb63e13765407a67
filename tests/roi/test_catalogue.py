import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.roi import Catalogue, Roi

ROIS = (
    Roi("PTV_7000", "target"),
    Roi("Parotid_L", "oar", "Parotid_R"),
    Roi("Brainstem", "oar"),
    Roi("Parotid_R", "oar", "Parotid_L"),
    Roi("Body", "external"),
    Roi("DoseRegion", "dose_region"),
)
CATALOGUE = Catalogue(ROIS)


def test_bits_follow_the_order():
    assert [CATALOGUE.bit(name) for name in CATALOGUE.names] == [0, 1, 2, 3, 4, 5]
    assert CATALOGUE.bits_of_kind("oar", "external") == (1, 2, 3, 4)
    assert CATALOGUE.dose_region_bit == 5
    assert Catalogue(ROIS[:3:2]).dose_region_bit is None
    assert (len(CATALOGUE), CATALOGUE.dtype, CATALOGUE.n_words) == (6, "uint8", 1)


def test_mirror_permutation_swaps_partners_only():
    assert CATALOGUE.mirror_permutation == (0, 3, 2, 1, 4, 5)


@pytest.mark.parametrize(
    ("rois", "one_sided"),
    [
        ((Roi("Breast_L", "oar"), Roi("Heart", "oar")), ("Breast_L",)),
        ((*ROIS, Roi("OpticNrv_PRV03_R", "oar")), ("OpticNrv_PRV03_R",)),
    ],
)
def test_an_roi_of_one_side_without_a_partner_forbids_mirroring(rois, one_sided):
    catalogue = Catalogue(rois)
    assert catalogue.one_sided == one_sided
    assert catalogue.mirror_permutation is None


def test_lumbar_vertebrae_have_no_side():
    assert Catalogue((Roi("VB_L", "other"), Roi("Parotids", "oar"))).mirror_permutation == (0, 1)


def test_json_round_trip():
    entries = CATALOGUE.to_json()
    assert entries[1] == {"name": "Parotid_L", "bit": 1, "kind": "oar", "mirror": "Parotid_R"}
    assert Catalogue.from_json(entries) == CATALOGUE


def test_64_rois_are_the_limit():
    assert Catalogue(tuple(Roi(f"R{k}", "oar") for k in range(64))).dtype == "uint64"
    with pytest.raises(InputError, match="not 65"):
        Catalogue(tuple(Roi(f"R{k}", "oar") for k in range(65)))
    with pytest.raises(InputError, match="not 0"):
        Catalogue(())


@pytest.mark.parametrize(
    ("rois", "message"),
    [
        ((Roi("A", "oar"), Roi("A", "oar")), "ROI 'A' is in the catalogue 2 times"),
        ((Roi("A", "organ"),), "has kind 'organ'; known are target, oar"),
        ((Roi("A_L", "oar", "A_R"),), "mirror partner 'A_R', which does not point back"),
        ((Roi("A_L", "oar", "A_R"), Roi("A_R", "oar")), "mirror partner 'A_R', which does not point back"),
        ((Roi("A", "external"), Roi("B", "external")), "at most one ROI of kind 'external', not 2"),
        ((Roi("A", "dose_region"), Roi("B", "dose_region")), "at most one ROI of kind 'dose_region', not 2"),
    ],
)
def test_inconsistent_catalogues_are_refused(rois, message):
    with pytest.raises(InputError, match=message):
        Catalogue(rois)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match="no ROI 'Parotid' in the catalogue; it has PTV_7000, Parotid_L"):
        CATALOGUE.bit("Parotid")


def test_damaged_json_is_refused():
    entries = CATALOGUE.to_json()
    with pytest.raises(InputError, match=r"entry 0 \('Parotid_L'\) claims bit 1"):
        Catalogue.from_json(entries[1:])
    with pytest.raises(InputError, match=r"ROI catalogue: 0\.mirror: Field required"):
        Catalogue.from_json([{"name": "A", "bit": 0, "kind": "oar"}])
