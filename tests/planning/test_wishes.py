"""Desired dose of a protocol, voxel by voxel."""

import dataclasses

import numpy as np
import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.geometry.grid import Grid
from cdm_nnunet.planning.anatomy import Anatomy, body_of_ct
from cdm_nnunet.planning.protocol import FallOff, Protocol
from cdm_nnunet.planning.wishes import Wishes, ceiling_gy, choose_points
from cdm_nnunet.roi import Catalogue, Roi, pack

CATALOGUE = Catalogue(
    (Roi("PTV_High", "target"), Roi("PTV_Low", "target"), Roi("Cord", "oar"), Roi("Region", "dose_region"))
)
SHAPE = (6, 10, 40)
RULES = FallOff(percent_at_mm=[(0, 100), (10, 50), (20, 50)], weight=1, beyond_weight=1)


def anatomy(**changes):
    """A bar of water along x: high target, low target next to it, and a cord."""
    x = np.broadcast_to(np.arange(40), SHAPE)
    masks = np.stack([x < 8, (x >= 6) & (x < 16), (x >= 20) & (x < 24), x < 38])
    ct_hu = np.where(x < 38, 0, -1000).astype(np.int16)
    fields = {
        "case": "bar",
        "ct_hu": ct_hu,
        "roi_bits": pack(masks),
        "catalogue": CATALOGUE,
        "prescriptions_gy": {"PTV_High": 70.0, "PTV_Low": 56.0},
        "grid": Grid(SHAPE, (2.0, 2.0, 2.0)),
    }
    return Anatomy(**(fields | changes))


def test_the_ceiling_falls_off_from_the_nearest_target():
    ceiling = ceiling_gy(anatomy(), RULES)[3, 5]
    assert ceiling[:8] == pytest.approx(70)
    assert ceiling[8] == pytest.approx(70 * 0.9)  # 2 mm beyond the high target, inside the low one
    assert ceiling[12] == pytest.approx(56)  # 10 mm beyond it the low one allows more
    assert ceiling[18] == pytest.approx(56 * (1 - 0.5 * 6 / 10))  # 6 mm beyond the low one
    assert ceiling[30:] == pytest.approx(35)  # level beyond the last distance, by the higher target


def test_a_voxel_of_two_targets_belongs_to_the_higher_one(engine, protocol):
    patient, rules = anatomy(), without_limits(protocol)
    wishes = Wishes.of(patient, rules)
    influence = engine.influence(patient, rules.beams)
    points = choose_points(patient, influence, wishes.near, patient.body)
    terms = {term.name: term for term in wishes.terms(points)}
    low = set(points.all_voxels[terms["PTV_Low underdose"].points])
    assert low == set(np.flatnonzero((patient.mask("PTV_Low") & ~patient.mask("PTV_High")).ravel()))
    assert terms["PTV_High underdose"].level_gy == pytest.approx(70 * rules.targets.lower_percent / 100)
    for name, weight in (("PTV_High underdose", rules.targets.under_weight), ("fall-off", rules.fall_off.weight)):
        assert float(terms[name].weight.sum()) == pytest.approx(weight, rel=1e-4)
    outside = np.concatenate([terms["fall-off"].points, terms["body beyond"].points])
    assert not patient.targets.ravel()[points.all_voxels[outside]].any()


def test_points_far_away_are_every_other_node(engine, protocol):
    patient = anatomy()
    influence = engine.influence(patient, protocol.beams)
    near = patient.distance_mm(patient.targets) <= 10
    points = choose_points(patient, influence, near, patient.body)
    assert set(points.voxels) == set(np.flatnonzero((near & patient.body).ravel()))
    assert points.nodes.size > 0
    assert not near.ravel()[points.node_voxels].any()
    place = np.unravel_index(influence.nodes[points.nodes], influence.grid.shape)
    assert all((index % 2 == 0).all() for index in place)
    assert points.voxels_a_node == pytest.approx(8 * 8.0**3 / 8)


def test_an_organ_that_overlaps_a_target_is_limited_outside_it(engine, protocol):
    x = np.broadcast_to(np.arange(40), SHAPE)
    patient = anatomy(roi_bits=pack(np.stack([x < 8, (x >= 6) & (x < 16), (x >= 10) & (x < 24), x < 38])))
    rules = without_limits(protocol, {"roi": "Cord", "upper_gy": 30, "weight": 5})
    wishes = Wishes.of(patient, rules)
    points = choose_points(patient, engine.influence(patient, rules.beams), wishes.near, patient.body)
    term = next(term for term in wishes.terms(points) if term.name == "Cord over 30 Gy")
    assert set(np.unravel_index(points.all_voxels[term.points], SHAPE)[2]) == set(range(16, 24))


def without_limits(protocol, *limits):
    return Protocol.model_validate(protocol.model_dump() | {"limits": list(limits)})


@pytest.mark.parametrize("roi", ["Heart", "PTV_Low"])
def test_a_limit_for_what_is_no_organ_is_refused(protocol, roi):
    rules = without_limits(protocol, {"roi": roi, "upper_gy": 30, "weight": 5})
    with pytest.raises(InputError, match=f"limit for '{roi}', which is not an organ .*; its organs are Cord"):
        Wishes.of(anatomy(), rules)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prescriptions_gy": {}}, "no target with a prescription"),
        ({"roi_bits": np.zeros(SHAPE, np.uint8)}, "target 'PTV_High' has no voxel"),
        (
            {"grid": Grid(SHAPE, (2.0, 2.0, 2.0), axes=np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1]]))},
            "tilted against the patient's axes",
        ),
    ],
    ids=["no prescription", "no voxel", "tilted"],
)
def test_a_patient_who_cannot_be_planned_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        anatomy(**changes)


def test_the_body_is_the_largest_part_with_its_cavities():
    ct_hu = np.full((3, 12, 12), -1000)
    ct_hu[:, 2:9, 2:9] = 0
    ct_hu[:, 4:6, 4:6] = -1000  # a cavity
    ct_hu[:, 11, :] = 100  # a couch
    body = body_of_ct(ct_hu)
    assert body[:, 2:9, 2:9].all()
    assert body.sum() == 3 * 49
    with pytest.raises(InputError, match="it shows no body"):
        body_of_ct(np.full((2, 2, 2), -1000))


def test_a_contour_of_the_body_comes_before_the_ct():
    catalogue = Catalogue((Roi("PTV_High", "target"), Roi("External", "external")))
    x = np.broadcast_to(np.arange(40), SHAPE)
    patient = dataclasses.replace(
        anatomy(), catalogue=catalogue, roi_bits=pack(np.stack([x < 8, x < 30])), prescriptions_gy={"PTV_High": 70.0}
    )
    assert patient.body[0, 0].sum() == 30
    assert patient.dose_region.sum() == patient.body.sum()
