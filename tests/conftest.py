"""Fixtures of the training tests. They import late: some tests run without Detectron2."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# As it was before any fixture changed it.
DATASETS = os.getenv("DETECTRON2_DATASETS", "datasets")
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder DETECTRON2_DATASETS: of the builtin datasets it has a tiny ``shapes``."""
    from tests.training import register_datasets, write_dataset

    root = tmp_path_factory.mktemp("datasets")
    write_dataset(root)
    register_datasets(root)
    with pytest.MonkeyPatch.context() as patch:  # for processes of tests
        patch.setenv("DETECTRON2_DATASETS", str(root))
        yield root
    register_datasets(DATASETS)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, datasets: Path) -> Path:
    """The config file of a tiny detector for these datasets."""
    from tests.training import CONFIG

    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of recorded values of the authors' networks, ``$ASFF_REFERENCE``."""
    folder = Path(os.getenv("ASFF_REFERENCE", ""))
    if not (folder / "asff_keys.json").is_file():
        pytest.skip("ASFF_REFERENCE does not name the folder of the recorded values.")
    return folder


@pytest.fixture(scope="session")
def bccd() -> Path:
    """The folder of the BCCD images, below ``$DETECTRON2_DATASETS``."""
    folder = Path(DATASETS, "bccd")
    if not (folder / "train.json").is_file():
        pytest.skip("DETECTRON2_DATASETS does not hold the dataset bccd.")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """See :func:`tests.training.one_thread`."""
    from tests.training import one_thread

    with one_thread():
        yield


@pytest.fixture
def clean_loggers() -> Iterator[None]:
    """Undo setup_logger(), which keeps records from ``caplog`` for good."""
    yield
    from tests.training import reset_loggers

    reset_loggers()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with a line to be printed at the end, whether or not output is captured."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if FIGURES in config.stash:
        terminalreporter.section("figures")
        for line in config.stash[FIGURES]:
            terminalreporter.line(line)
