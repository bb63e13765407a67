"""An unexpected error in one patient is refused with a log, and does not stop the others."""

import errno

import pytest

from cdm_nnunet.dataset_conversion.raw_layout import write_dataset
from cdm_nnunet.errors import InputError
from cdm_nnunet.fence import fenced


class Surprising:
    """A patient whose reading fails as no converter expects."""

    name, split = "case_0", "Tr"

    def __init__(self, error):
        self.error = error

    def checksums(self):
        return {}

    def load(self):
        raise self.error


@pytest.mark.parametrize("error", [KeyError("x"), ZeroDivisionError("y"), OSError(errno.EIO, "z"), MemoryError()])
def test_an_internal_error_refuses_one_patient(tmp_path, spec, memory_source, error):
    sources = [Surprising(error), memory_source("case_1"), memory_source("case_2")]
    message = r"1 of 3 patients can't be used: \[case_0\] internal error \(\w+: .*\); left out, see .*errors.log\. The"
    with pytest.raises(InputError, match=message):
        write_dataset(tmp_path, spec, sources, log=tmp_path / "errors.log")
    text = (tmp_path / "errors.log").read_text()
    assert "case_0" in text
    assert "in load" in text
    assert (tmp_path / "errors.log").stat().st_mode & 0o077 == 0
    assert len(list((tmp_path / "Dataset501_Test" / "labelsTr").iterdir())) == 2


def test_errors_are_added_to_the_log(tmp_path):
    log = tmp_path / "new" / "errors.log"
    for text in ("first", "second"):
        with pytest.raises(InputError, match=f"ValueError: {text}"), fenced("case", log):
            raise ValueError(text)
    assert log.read_text().count("Traceback") == 2


def test_what_is_foreseen_passes(tmp_path):
    log = tmp_path / "errors.log"
    with pytest.raises(InputError, match=r"^as it is$"), fenced("case", log):
        raise InputError("as it is")
    with pytest.raises(OSError, match="full"), fenced("case", log, passing=(OSError,)):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(KeyboardInterrupt), fenced("case", log):
        raise KeyboardInterrupt
    assert not log.exists()
