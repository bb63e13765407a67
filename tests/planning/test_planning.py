"""Plans of phantoms with a quick engine: laws of the dose, the data set that is written, and the command."""

import dataclasses
import json
import re

import numpy as np
import pytest

from cdm_nnunet.cli.main import main
from cdm_nnunet.dataset import RawDataset
from cdm_nnunet.dataset_conversion.conversion import DatasetPlace
from cdm_nnunet.dvh import Metric, evaluate
from cdm_nnunet.errors import InputError
from cdm_nnunet.images import read_image
from cdm_nnunet.planning.anatomy import read_anatomy
from cdm_nnunet.planning.planned_cases import PlanRequest, plan_doses
from cdm_nnunet.planning.planner import plan_patient
from cdm_nnunet.planning.verdict import verdict_of


@pytest.fixture(scope="module")
def anatomy(phantoms):
    return read_anatomy(phantoms, next(iter(phantoms.cases)))


@pytest.fixture(scope="module")
def plan(anatomy, protocol, engine):
    return plan_patient(anatomy, protocol, engine)


def test_the_highest_target_gets_its_prescription(anatomy, plan):
    in_target = plan.dose_gy[anatomy.mask(anatomy.highest_target)]
    assert evaluate(Metric.parse("D95%"), in_target, voxel_volume_cc=1.0) == pytest.approx(70, rel=1e-5)
    assert plan.dose_gy[~anatomy.dose_region].max() == 0
    assert plan.dose_gy.min() >= 0


def test_it_is_a_plan(anatomy, plan):
    outside = anatomy.dose_region & (anatomy.distance_mm(anatomy.targets) > 30)
    assert plan.dose_gy[anatomy.targets].mean() > 2 * plan.dose_gy[outside].mean() > 0
    assert plan.objective["SpinalCord over 30 Gy"] >= 0
    assert 0.8 < plan.scale < 1.25


def test_a_limit_lowers_the_dose_of_its_organ(anatomy, plan, protocol, engine):
    cord = anatomy.mask("SpinalCord") & ~anatomy.targets
    harder = protocol.model_copy(
        update={"limits": [protocol.limits[0].model_copy(update={"upper_gy": 10.0, "weight": 200.0})]}
    )
    assert plan_patient(anatomy, harder, engine).dose_gy[cord].mean() < plan.dose_gy[cord].mean() - 1


def test_the_unit_of_the_engine_does_not_matter(anatomy, plan, protocol, engine):
    other = plan_patient(anatomy, protocol, dataclasses.replace(engine, strength=1e-3))
    np.testing.assert_allclose(other.dose_gy, plan.dose_gy, atol=0.05)


def test_a_plan_that_is_too_hot_is_noted(anatomy, protocol, engine):
    strict = protocol.model_copy(
        update={"normalisation": protocol.normalisation.model_copy(update={"hottest_percent": 100.1})}
    )
    (note,) = plan_patient(anatomy, strict, engine).notes
    assert "D1% of 'PTV_7000' is 10" in note
    assert "above the 100.1 % of the protocol" in note


def place(tmp_path):
    return DatasetPlace(tmp_path, 502, "Planned")


def test_a_planned_data_set_has_the_same_anatomies(phantoms, protocol, engine, tmp_path):
    done = plan_doses(PlanRequest(phantoms, protocol, engine=engine), place(tmp_path))
    planned = RawDataset(done.folder)
    assert {name: record.split for name, record in planned.cases.items()} == {
        name: record.split for name, record in phantoms.cases.items()
    }
    for name, record in planned.cases.items():
        assert record.prescriptions_gy == phantoms.record(name).prescriptions_gy
        for channel in range(3):
            ours, theirs = (read_image(one.image_path(name, channel)).values for one in (planned, phantoms))
            np.testing.assert_array_equal(ours, theirs)
        told = json.loads(record.source["plan"])
        assert told["protocol_sha256"] == protocol.sha256
        assert told["objective"]["PTV_7000 underdose"] > 0
        dose_gy = read_image(planned.dose_path(name)).values
        mask = read_anatomy(planned, name).mask("PTV_7000")
        assert told["values_gy"]["PTV_7000 D95%"][0] == pytest.approx(np.quantile(dose_gy[mask], 0.05), abs=0.2)
        source_gy = read_image(phantoms.dose_path(name)).values
        assert told["values_gy"]["PTV_7000 D1%"][1] == pytest.approx(np.quantile(source_gy[mask], 0.99), abs=0.5)
    assert planned.dataset_json["cdm"]["facts"]["protocol"]["name"] == "small"
    rows = {row.name: row for row in verdict_of(planned.cases.values())}
    values = [json.loads(record.source["plan"])["values_gy"]["SpinalCord Dmean"] for record in planned.cases.values()]
    assert rows["SpinalCord Dmean"].n == 4
    assert [rows["SpinalCord Dmean"].planned_gy, rows["SpinalCord Dmean"].source_gy] == pytest.approx(
        np.mean(values, axis=0)
    )


def test_it_goes_on_where_it_was_stopped(phantoms, protocol, engine, tmp_path):
    first, second, third, *others = phantoms.cases
    request = PlanRequest(phantoms, protocol, (first, second), engine=engine)
    assert plan_doses(request, place(tmp_path)).converted == (first, second)
    more = plan_doses(dataclasses.replace(request, only=(third,)), place(tmp_path))
    assert (more.converted, tuple(more.cases)) == ((third,), (first, second, third))
    everyone = dataclasses.replace(request, only=())
    assert plan_doses(everyone, place(tmp_path)).converted == tuple(others)
    assert plan_doses(everyone, place(tmp_path)).converted == ()
    other = dataclasses.replace(everyone, engine=dataclasses.replace(engine, version="parallel beams 2"))
    assert len(plan_doses(other, place(tmp_path)).converted) == 4


def test_who_cannot_be_planned_is_named_and_the_others_are(phantoms, protocol, engine, tmp_path):
    bad = list(phantoms.cases)[1]

    class Failing(type(engine)):
        def influence(self, anatomy, beams):
            if anatomy.case == bad:
                raise InputError("no beam reaches the body")
            return super().influence(anatomy, beams)

    request = PlanRequest(phantoms, protocol, engine=Failing())
    with pytest.raises(InputError, match=rf"1 of 4 patients.*\[{bad}\] no beam reaches the body"):
        plan_doses(request, place(tmp_path))
    done = plan_doses(dataclasses.replace(request, exclude=(bad,)), place(tmp_path))
    assert set(done.cases) == set(phantoms.cases) - {bad}
    assert done.converted == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"only": ("nobody",)}, "has no case 'nobody'"), ({"exclude": ("nobody",)}, "not in .*nobody")],
    ids=["only", "exclude"],
)
def test_a_case_that_is_not_there_is_refused(phantoms, protocol, engine, tmp_path, changes, message):
    request = dataclasses.replace(PlanRequest(phantoms, protocol, engine=engine), **changes)
    with pytest.raises(InputError, match=message):
        plan_doses(request, place(tmp_path))


@pytest.fixture
def protocol_file(protocol, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(protocol.model_dump(mode="json")))
    return path


def test_the_command_tells_the_means(raw_folder, protocol_file, as_default, capfd):
    command = ["plan-doses", "501", "-d", "502", "--protocol", str(protocol_file), "-np", "1"]
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert "4 cases by protocol 'small': 4 planned, 0 unchanged" in out
    assert re.search(r"PTV_7000 D95% +70\.0 Gy", out)
    assert "not for treatment" in out
    assert "next: cdm-nnunet plan -d 502" in err
    assert (raw_folder / "Dataset502_PhantomsPlanned" / "dataset.json").is_file()
    assert main([*command, "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["converted"] == []
    assert {row["name"] for row in record["verdict"]} >= {"PTV_7000 D95%", "PTV_7000 D1%", "SpinalCord Dmean"}


def test_with_a_pydantic_that_breaks_it_it_says_so(raw_folder, monkeypatch, capfd):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.14.4")
    assert main(["plan-doses", "501", "-d", "502"]) == 2
    assert "pyRadPlan breaks with pydantic 2.14" in capfd.readouterr().err


def test_without_the_extra_it_says_what_to_install(raw_folder, monkeypatch, capfd):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["plan-doses", "501", "-d", "502"]) == 2
    assert 'pip install "cdm_nnunet[planning]"' in capfd.readouterr().err
