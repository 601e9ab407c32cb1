"""Which checkpoints are kept, which is the best, and when a training ends for want of a better."""

from __future__ import annotations

from pathlib import Path

import pytest

from asff.engine import Trainer
from tests.training import check_same_weights, read_checkpoint, run_here

pytestmark = pytest.mark.usefixtures("one_thread", "clean_loggers")

KEEP = ("SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.KEEP_CHECKPOINTS", 2, "SOLVER.KEEP_EVERY", 6)


def saved(folder: Path) -> list[int]:
    """Return the iterations of the periodic checkpoints of a folder."""
    return sorted(int(x.stem[6:]) for x in folder.glob("model_[0-9]*.pth"))


def test_keeps_the_last_and_every_kth(config, tmp_path):
    """Also of those from before a resume; those of a longer run in the same folder stay."""
    (tmp_path / "model_0000099.pth").touch()
    options = ("--config-file", config, *KEEP, "DATASETS.TEST", (), "OUTPUT_DIR", tmp_path)
    run = run_here(*options, "SOLVER.MAX_ITER", 8)
    assert run.code == 0, run.output
    assert saved(tmp_path) == [5, 7, 99]
    run = run_here("--resume", *options, "SOLVER.MAX_ITER", 14)
    assert run.code == 0 and "Resuming from iteration 8" in run.output
    assert saved(tmp_path) == [5, 11, 13, 99]


@pytest.fixture
def metrics_are(monkeypatch):
    """Let evaluations give these values, by the iterations that were trained before."""

    def replace(values: dict[int, float]) -> list[int]:
        trained, train = [], Trainer.run_step

        def run_step(trainer: Trainer) -> None:
            train(trainer)
            trained[:] = [trainer.iter + 1]

        def test(cls: type, cfg: object, model: object) -> dict:
            evaluated.append(trained[0] if trained else starts[0])
            return {"bbox": {"AP": values[evaluated[-1]]}}

        def resume(trainer: Trainer, resume: bool = True) -> None:
            resume_or_load(trainer, resume)
            trained.clear()
            starts[:] = [trainer.start_iter]

        evaluated, starts, resume_or_load = [], [0], Trainer.resume_or_load
        monkeypatch.setattr(Trainer, "run_step", run_step)
        monkeypatch.setattr(Trainer, "resume_or_load", resume)
        monkeypatch.setattr(Trainer, "test", classmethod(test))
        return evaluated

    return replace


BEST = ("TEST.EVAL_PERIOD", 2, "TEST.BEST_METRIC", "bbox/AP", "SOLVER.CHECKPOINT_PERIOD", 2)


def best_of(folder: Path) -> tuple[int, float]:
    """Return the iteration of the best checkpoint, and the best metric that the last one knows."""
    best = read_checkpoint(folder / "model_best.pth")["trainer"]["iteration"]
    last = read_checkpoint(folder / "model_final.pth")["trainer"]["hooks"]["BestCheckpointer"]
    return best, last["best_metric"]


def test_remembers_the_best_over_a_resume(config, tmp_path, metrics_are):
    """The checkpoint at 4 is saved before the evaluation there, which is the best."""
    evaluated = metrics_are({2: 1.0, 4: 3.0, 6: 2.0, 8: 2.5, 9: 1.0})
    options = ("--config-file", config, "--resume", *BEST, "OUTPUT_DIR", tmp_path)
    run = run_here(*options, "SOLVER.MAX_ITER", 4)
    assert run.code == 0, run.output
    assert evaluated == [2, 4]
    run = run_here(*options, "SOLVER.MAX_ITER", 9)
    assert run.code == 0, run.output
    assert "Resuming from iteration 4" in run.output
    assert evaluated == [2, 4, 4, 6, 8, 9]
    assert best_of(tmp_path) == (3, 3.0)


def test_remembers_the_best_of_the_last_evaluation(config, tmp_path, metrics_are):
    """Which is at no multiple of the period; an unfinished training would not have had it."""
    evaluated = metrics_are({2: 1.0, 3: 3.0, 4: 2.0, 5: 1.0})
    options = ("--config-file", config, "--resume", *BEST, "OUTPUT_DIR", tmp_path)
    for max_iter in (3, 5):
        run = run_here(*options, "SOLVER.MAX_ITER", max_iter)
        assert run.code == 0, run.output
    assert evaluated == [2, 3, 3, 4, 5]
    assert best_of(tmp_path) == (2, 3.0)


def test_stops_early(config, tmp_path, metrics_are):
    """At 8, two evaluations after the best; alike where it was stopped and resumed."""
    values = {2: 1.0, 4: 3.0, 6: 2.0, 8: float("nan"), 10: 9.0}
    options = ("--config-file", config, "--resume", *BEST, "SOLVER.EARLY_STOPPING.PATIENCE", 2)
    options += ("SOLVER.MAX_ITER", 20, "OUTPUT_DIR")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    evaluated = metrics_are(values)
    run = run_here(*options, whole)
    assert run.code == 0, run.output
    assert "2 evaluations have not exceeded bbox/AP 3 of iteration 3" in run.output
    assert evaluated == [2, 4, 6, 8] and best_of(whole) == (3, 3.0)
    run = run_here(*options, whole)  # there is nothing left to do
    assert run.code == 0 and "The training ends after iteration 7" in run.output
    assert len(evaluated) == 4

    resumed.mkdir()
    (resumed / "model_0000005.pth").write_bytes((whole / "model_0000005.pth").read_bytes())
    run = run_here(*options, resumed)
    assert run.code == 0 and "Resuming from iteration 6" in run.output
    assert evaluated[4:] == [6, 8]
    check_same_weights(resumed, whole)


def test_names_a_metric_that_is_not_computed(config, tmp_path, metrics_are):
    metrics_are({2: 1.0})
    options = (*BEST, "TEST.BEST_METRIC", "bbox/ap", "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path)
    run = run_here("--config-file", config, *options)
    assert run.code == 0, run.output
    assert "TEST.BEST_METRIC is 'bbox/ap', which the evaluation lacks" in run.output
    assert "It has bbox/AP." in run.output and not (tmp_path / "model_best.pth").exists()
