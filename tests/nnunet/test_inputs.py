"""Which files are cases of an input folder, and whether their bits are those of the model."""

import dataclasses
import json
from pathlib import Path

import pytest

from cdm_nnunet.errors import InputError
from cdm_nnunet.nnunet.inputs import find_cases, refuse_other_catalogues, refuse_output_over_data, write_catalogue
from cdm_nnunet.roi import Catalogue, Roi

CATALOGUE = Catalogue(
    (
        Roi("PTV", "target"),
        Roi("Parotid_L", "oar", "Parotid_R"),
        Roi("Parotid_R", "oar", "Parotid_L"),
        Roi("External", "external"),
    )
)


class TestFindCases:
    def touch(self, folder: Path, *names: str) -> None:
        for name in names:
            (folder / name).touch()

    def test_cases_are_found_in_order(self, tmp_path):
        self.touch(tmp_path, *(f"{case}_{k:04d}.nii.gz" for case in ("b", "a_1") for k in (2, 0, 1)), "notes.txt")
        assert [[Path(f).name for f in files] for files in find_cases(tmp_path)] == [
            [f"{case}_{k:04d}.nii.gz" for k in range(3)] for case in ("a_1", "b")
        ]

    def test_names_that_look_like_channels_do_not_confuse(self, tmp_path):
        """Between P_0000.nii.gz and P_0001.nii.gz the files of the case P_0000 are sorted in."""
        self.touch(tmp_path, *(f"{case}_{k:04d}.nii.gz" for case in ("P", "P_0000", "P_0001") for k in range(3)))
        assert [Path(files[0]).name for files in find_cases(tmp_path)] == [
            "P_0000.nii.gz",
            "P_0000_0000.nii.gz",
            "P_0001_0000.nii.gz",
        ]

    def test_files_in_the_making_are_no_cases(self, tmp_path):
        self.touch(tmp_path, *(f"a_{k:04d}.nii.gz" for k in range(3)), ".partial_77_b_0000.nii.gz")
        assert len(find_cases(tmp_path)) == 1

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"input folder \S+nowhere is missing"):
            find_cases(tmp_path / "nowhere")

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"has no case; expected CASE_0000\.nii\.gz \(CT\)"):
            find_cases(tmp_path)

    @pytest.mark.parametrize("lost", [0, 1, 2])
    def test_a_missing_channel(self, tmp_path, lost):
        self.touch(tmp_path, *(f"a_{k:04d}.nii.gz" for k in range(3) if k != lost))
        with pytest.raises(InputError, match=rf"case 'a' in \S+ lacks a_000{lost}\.nii\.gz"):
            find_cases(tmp_path)

    def test_a_fourth_channel(self, tmp_path):
        self.touch(tmp_path, *(f"a_{k:04d}.nii.gz" for k in range(4)))
        with pytest.raises(InputError, match=r"case 'a' in \S+ has unknown channels a_0003\.nii\.gz"):
            find_cases(tmp_path)


def changed(*positions: int, **fields) -> Catalogue:
    rois = list(CATALOGUE.rois)
    for position in positions:
        rois[position] = dataclasses.replace(rois[position], **fields)
    return Catalogue(tuple(rois))


class TestCatalogue:
    @pytest.fixture
    def cases(self, tmp_path) -> list[list[str]]:
        (tmp_path / "set" / "imagesTs").mkdir(parents=True)
        return [[str(tmp_path / "set" / "imagesTs" / f"a_{k:04d}.nii.gz") for k in range(3)]]

    @pytest.mark.parametrize("where", ["set", "set/imagesTs"])
    def test_the_catalogue_lies_beside_the_cases_or_a_folder_above(self, cases, tmp_path, where):
        write_catalogue(tmp_path / where, CATALOGUE)
        refuse_other_catalogues(cases, CATALOGUE)

    def test_without_one_nobody_knows_what_the_bits_are(self, cases, tmp_path):
        write_catalogue(tmp_path, CATALOGUE)  # (two folders above)
        with pytest.raises(InputError, match=r"nothing says which ROI is which bit in \S+imagesTs: it has no dataset"):
            refuse_other_catalogues(cases, CATALOGUE)

    def test_the_one_of_the_folder_comes_before_the_one_above(self, cases, tmp_path):
        write_catalogue(tmp_path / "set", CATALOGUE)
        write_catalogue(tmp_path / "set" / "imagesTs", changed(0, name="CTV"))
        with pytest.raises(InputError, match="bit 0 is 'CTV' there and 'PTV' in the model"):
            refuse_other_catalogues(cases, CATALOGUE)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (Catalogue(CATALOGUE.rois[::-1]), "bit 0 is 'External' there and 'PTV' in the model"),
            (changed(0, kind="oar"), "'PTV' is of kind 'oar' there and 'target' in the model"),
            (changed(1, 2, mirror=None), "'Parotid_L' has the mirror partner None there and Parotid_R in the model"),
            (Catalogue(CATALOGUE.rois[:3]), "the catalogue has 3 ROIs there and 4 in the model"),
            (Catalogue((*CATALOGUE.rois, Roi("Lens", "oar"))), "the catalogue has 5 ROIs there and 4 in the model"),
        ],
    )
    def test_another_one_is_refused(self, cases, tmp_path, other, message):
        write_catalogue(tmp_path / "set", other)
        with pytest.raises(InputError, match=rf"the ROI bits in \S+ are not those of the model: {message}"):
            refuse_other_catalogues(cases, CATALOGUE)

    def test_every_channel_of_every_case_counts(self, cases, tmp_path):
        write_catalogue(tmp_path / "set", CATALOGUE)
        cases[0][2] = str(tmp_path / "elsewhere" / "a_0002.nii.gz")
        with pytest.raises(InputError, match=r"nothing says which ROI is which bit in \S+elsewhere"):
            refuse_other_catalogues(cases, CATALOGUE)

    def test_a_dataset_json_of_segmentation_says_nothing(self, cases, tmp_path):
        (tmp_path / "set" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 1}}))
        with pytest.raises(InputError, match=r"set/dataset\.json has no 'cdm' section"):
            refuse_other_catalogues(cases, CATALOGUE)

    def test_doses_do_not_land_among_the_data(self, cases, tmp_path):
        (tmp_path / "set" / "cdm_cases.json").write_text("{}")
        for folder in (
            tmp_path / "set" / "imagesTs",
            tmp_path / "set",
            tmp_path / "set" / "imagesTs" / ".." / "imagesTs",
        ):
            with pytest.raises(InputError, match=r"holds the cases to predict or a data set; choose another folder"):
                refuse_output_over_data(cases, folder)
        refuse_output_over_data(cases, tmp_path / "doses")
