"""Standard names, aliases and rules of TG-263."""

import json
from collections import defaultdict
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_nnunet.dvh import Template
from cdm_nnunet.dvh.template import shipped_templates
from cdm_nnunet.roi import tg263
from cdm_nnunet.roi.catalogue import mirror_name, side_of
from cdm_nnunet.roi.tg263 import prescription_gy, propose, structures

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


def decided(name):
    found = propose(name).decided
    return None if found is None else (found.name, found.confidence)


@pytest.mark.parametrize(
    ("name", "standard", "confidence"),
    [
        ("Parotid_L", "Parotid_L", "exact"),
        (" Parotid_L ", "Parotid_L", "exact"),
        ("Myelon", "SpinalCord", "alias"),
        ("spinal cord", "SpinalCord", "alias"),
        ("Cord", "SpinalCord", "alias"),
        ("SPINAL_CORD", "SpinalCord", "alias"),
        ("Rückenmark", "SpinalCord", "alias"),
        ("Rueckenmark", "SpinalCord", "alias"),
        ("Ruckenmark", "SpinalCord", "alias"),
        ("moelle epiniere", "SpinalCord", "alias"),
        ("ruggenmerg", "SpinalCord", "alias"),
        ("Parotis li", "Parotid_L", "alias"),
        ("Parotis_RE", "Parotid_R", "alias"),
        ("Left Parotid", "Parotid_L", "alias"),
        ("LPAROTID", "Parotid_L", "rule"),
        ("parotidr", "Parotid_R", "rule"),
        ("Parotide_D", "Parotid_R", "rule"),
        ("Parotide gauche", "Parotid_L", "alias"),
        ("oorspeekselklier rechts", "Parotid_R", "alias"),
        ("glnd_submand_l", "Glnd_Submand_L", "alias"),
        ("chiasma", "OpticChiasm", "alias"),
        ("Chiasim", "OpticChiasm", "alias"),
        ("Opt Chiasm", "OpticChiasm", "alias"),
        ("N. opticus re", "OpticNrv_R", "alias"),
        ("BODY", "External", "alias"),
        ("Body", "External", "alias"),
        ("Lungs-GTV", "Lungs-GTV", "exact"),
        ("Total Lung-GTV", "Lungs-GTV", "alias"),
        ("Parotis li - PTV", "Parotid_L-PTV", "rule"),
        ("RLung", "Lung_R", "alias"),
        ("Herz", "Heart", "alias"),
        ("LAD", "A_LAD", "alias"),
        ("Mamma rechts", "Breast_R", "alias"),
        ("Dünndarm", "Bowel_Small", "alias"),
        ("Niere li", "Kidney_L", "alias"),
        ("Rektum", "Rectum", "alias"),
        ("Hüftkopf rechts", "Femur_Head_R", "alias"),
        ("femoral head l", "Femur_Head_L", "alias"),
        ("lens", None, None),
        ("Lung", None, None),
        ("Parotid L+R", None, None),
        ("lever", "Liver", "alias"),
        ("Lever L", None, None),
        ("ZUNGE", "Tongue", "alias"),
    ],
)
def test_spellings_of_organs(name, standard, confidence):
    assert decided(name) == (None if standard is None else (standard, confidence))


@pytest.mark.parametrize(
    ("name", "standard", "confidence"),
    [
        ("SpinalCord_PRV05", "SpinalCord_PRV05", "exact"),
        ("OpticNrv_PRV03_L", "OpticNrv_PRV03_L", "exact"),
        ("optic nerve prv3 left", "OpticNrv_PRV03_L", "rule"),
        ("PRV Myelon 5mm", "SpinalCord_PRV05", "rule"),
        ("Myelon PRV 0.5 cm", "SpinalCord_PRV05", "rule"),
        ("Myelon+5mm", "SpinalCord_PRV05", "rule"),
        ("Hirnstamm_PRV", "Brainstem_PRV", "rule"),
        ("Brainstem PRV 2.5mm", "Brainstem_PRV", "rule"),
        ("LN_Neck_II_PRV_L", "LN_Neck_II_PRV_L", "exact"),
    ],
)
def test_planning_risk_volumes_keep_their_margin(name, standard, confidence):
    assert decided(name) == (standard, confidence)


@pytest.mark.parametrize(
    ("name", "standard", "dose_gy"),
    [
        ("PTV", "PTV", None),
        ("PTV1", "PTV1", None),
        ("PTV_7000", "PTV_7000", 70.0),
        ("PTV 70Gy", "PTV_7000", 70.0),
        ("PTV70", "PTV_7000", 70.0),
        ("PTV_60", "PTV_6000", 60.0),
        ("PTV6000", "PTV_6000", 60.0),
        ("PTV_5425", "PTV_5425", 54.25),
        ("PTV 54,25 Gy", "PTV_5425", 54.25),
        ("PTV 5940cGy", "PTV_5940", 59.4),
        ("CTV 50.4", "CTV_5040", 50.4),
        ("PTVHigh", "PTV_High", None),
        ("ptv intermediate", "PTV_Mid", None),
        ("PTV_Low_54", "PTV_Low_5400", 54.0),
        ("PTVn1_5600", "PTVn1_5600", 56.0),
        ("PTV1_60Gy", "PTV1_6000", 60.0),
        ("PTV_8Gy", "PTV_800", 8.0),
        ("IGTV", "IGTV", None),
        ("PTV_70_3mm", None, 70.0),
        ("PTV70Gy_35fx", None, 70.0),
        ("PTV70_eval", None, 70.0),
        ("eval_PTV70", None, 70.0),
        ("PTV_Total", None, None),
        ("PTV_12", None, None),
        ("PTV_2023", None, None),
        ("PTV_700", None, None),
        ("PTV_54_60", None, None),
        ("PTV_54_25", None, None),
        ("PTV60Gy/54Gy", None, None),
        ("PTV_20Gyx3", None, None),
        ("PTV_2000x3", None, None),
        ("PTV_150Gy", None, None),
    ],
)
def test_targets_and_the_dose_levels_in_their_names(name, standard, dose_gy):
    found = propose(name)
    assert found.kind == "target"
    assert found.prescription_gy == dose_gy
    assert (found.decided.name if found.decided else None) == standard


@pytest.mark.parametrize(
    "name",
    [
        "zPTV_opt",
        "PTV70_opt",
        "PTVHighOPT",
        "PTV_opt",
        "Ring",
        "RingPTVHigh",
        "dummy",
        "_avoid",
        "Couch",
        "CouchSurface",
        "Bolus",
        "zRing",
        "PTV-Parotid",
        "PTVMid-PTVHigh",
        "Body_Ring0-3",
        "PTV_Ring.3-2",
        "Hilfe_1",
        "z_Myelon",
        "x_1",
        "Marker1",
        "OptStruct",
        "zptv70",
        "Shell_20mm",
    ],
)
def test_helper_structures_are_told_apart(name):
    found = propose(name)
    assert found.is_helper
    assert (found.kind, found.proposals, found.decided, found.prescription_gy) == ("other", (), None, None)


@pytest.mark.parametrize(
    "name", ["OpticChiasm", "OPTIC_NRV_L", "Opticus re", "Testis_L", "Ringknorpel", "Zunge", "ZERVIX"]
)
def test_organs_are_no_helper_structures(name):
    assert not propose(name).is_helper


@pytest.mark.parametrize("name", ["Parotidd_L", "Brainstm", "Oesophags", "Spinal Crod", "Lung", "submandibulr li"])
def test_a_resemblance_never_decides(name):
    found = propose(name)
    assert found.proposals
    assert all(p.confidence == "fuzzy" for p in found.proposals)
    assert found.decided is None
    assert list(found.proposals) == sorted(found.proposals, key=lambda p: -p.similarity)


def test_a_resemblance_keeps_the_side():
    names = [p.name for p in propose("submandibulr li").proposals]
    assert "Glnd_Submand_L" in names
    assert "Glnd_Submand_R" not in names


@pytest.mark.parametrize("name", ["", "   ", "???", "NTCP", "Unknown thing", "42", "Low-Mid", "数字"])
def test_what_says_nothing_gets_no_proposal(name):
    found = propose(name)
    assert (found.name, found.kind, found.proposals, found.decided) == (name, None, (), None)


@given(st.text(max_size=40))
def test_any_name_is_answered(name):
    found = propose(name)
    assert found.name == name
    assert found.is_helper <= (not found.proposals)
    if found.decided is not None:
        assert found.decided.confidence != "fuzzy"
    if found.prescription_gy is not None:
        assert 1 <= found.prescription_gy <= 100


@pytest.mark.parametrize("name", sorted(structures()))
def test_the_table_is_consistent(name):
    structure = structures()[name]
    assert propose(name).decided == tg263.Proposal(name, structure.kind, "exact")
    assert len(name) <= 16  # the limit of the report
    if structure.side is not None:
        assert side_of(name) == structure.side
        assert structure.mirror == mirror_name(name)
        partner = structures()[structure.mirror]
        assert (partner.mirror, partner.kind) == (name, structure.kind)
        assert partner.side != structure.side
        for spelled in (name.lower(), f"{name[:-2]} {'left' if name[-1] == 'L' else 'rechts'}"):
            assert propose(spelled).decided.name == name
    for alias in structure.aliases:
        spelled = alias if structure.side is None else f"{alias} {structure.side}"
        assert decided(spelled) == (name, "alias"), alias


def test_no_spelling_stands_for_two_structures():
    text = resources.files("cdm_nnunet.roi").joinpath("tg263.json").read_text(encoding="utf-8")
    owners = defaultdict(set)
    for group in json.loads(text).values():
        for name, aliases in group.items() if isinstance(group, dict) else ():
            for alias in (name.removesuffix("_*"), *aliases):
                for key in tg263._keys(alias):
                    owners[key, name.endswith("_*")].add(name)
    assert {key: names for key, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize(
    ("name", "other"),
    [("Eye_L", "Eye_R"), ("OpticNrv_PRV03_R", "OpticNrv_PRV03_L"), ("Parotid_L-PTV", "Parotid_R-PTV")],
)
def test_mirror_names(name, other):
    assert (mirror_name(name), mirror_name(other)) == (other, name)
    assert side_of(name) != side_of(other)


@pytest.mark.parametrize("name", ["Larynx", "Lung_LUL", "VB_L1", "VB_L", "Parotids"])
def test_names_without_a_side(name):
    assert (side_of(name), mirror_name(name)) == (None, None)


@pytest.mark.parametrize("template", shipped_templates())
def test_aliases_of_the_shipped_templates_agree_with_the_table(template):
    for roi in Template.load(template).rois:
        for alias in roi.aliases:
            found = propose(alias).decided
            assert found is None or roi.kind not in ("oar", "external") or found.name == roi.name, alias


@pytest.mark.parametrize(
    ("name", "dose_gy"), [("Boost 66 Gy", 66.0), ("7000", 70.0), ("PTV", None), ("PTV 70 60", None)]
)
def test_prescriptions_are_read_from_any_text(name, dose_gy):
    assert prescription_gy(name) == dose_gy
