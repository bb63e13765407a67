"""Fixtures for all tests: real OpenKBP patients and a browser, if available."""

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Each of these, and every other folder of tests, runs in one process, because its tests share expensive fixtures. The
# longest come first, because a finished process can't take over tests from another.
LONGEST_FIRST = (
    "trainers",
    "test_readme.py",
    "test_first_hour.py",
    "nnunet",
    "end_to_end",
    "cli",
    "fuzz",
    "studies",
    "report",
    "test_cluster.py",
)
TWO_PATIENTS = (("train-pats", "pt_1"), ("validation-pats", "pt_201"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests go to one process, and which groups begin."""
    groups = {item: item.path.relative_to(REPOSITORY / "tests").parts[0] for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    order = {group: place for place, group in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(groups[item], len(order)))


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Undo changes of the environment by a command in this process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def openkbp_patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in OpenKBP's layout with the patients pt_1 (training) and pt_201 (validation)."""
    source = Path(os.environ.get("OPENKBP_DIR") or REPOSITORY.parent / "shared" / "openkbp")
    out = tmp_path_factory.mktemp("openkbp")
    for split, name in TWO_PATIENTS:
        folders = [source / split, source / split.replace("validation", "valid")]
        unpacked = next((folder / name for folder in folders if (folder / name).is_dir()), None)
        packed = next((p for folder in folders if (p := folder / f"{name}.tar.xz").is_file()), None)
        if unpacked is not None:
            shutil.copytree(unpacked, out / split / name)
        elif packed is not None:
            with tarfile.open(packed) as tar:
                tar.extractall(out, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # from 3.11.4 on
        else:
            pytest.skip(f"no OpenKBP patient {name} in {source}; set OPENKBP_DIR to a folder that has it")
    return out


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless browser; one for all tests, for a process can hold only one Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser on the path ({', '.join(BROWSERS)})")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=program)
        yield chromium
        chromium.close()


@pytest.fixture
def file_size_limit() -> Callable:
    """A context in which the system limits the size of files: the effect of a full disk, without filling one."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit(n_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
