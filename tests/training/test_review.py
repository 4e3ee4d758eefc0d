"""What a kill keeps a save from - its samples, its validation, the loss curve - is made up for."""

import os
import signal

import pytest

from LeFusion.diffusion import load_checkpoint
from LeFusion.training.log import BEST_FILE

SETTINGS = {"save_and_sample_every": 2, "train_num_steps": 4}


def score(network):
    return {"score": 1.0 + float(sum(p.abs().sum() for p in network.parameters()))}


def sheet(_network, path):
    path.write_text("samples")


def killed(*_given):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["samples", "validation"])
@pytest.mark.parametrize("step", [2, 4])
def test_the_review_of_a_killed_save_is_made_up_for(start, tmp_path, in_child, files, moment, step):
    """Also where the kill came after the last save, so that no step is left to train."""

    def at_step(number, review):
        def counting(network, *path):
            counting.calls += 1
            return killed() if 2 * counting.calls == number else review(network, *path)

        counting.calls = 0
        return counting

    start(tmp_path / "unbroken", sample_sheet=sheet, validate=score, **SETTINGS)
    dying = {"sample_sheet": sheet, "validate": score}
    key = "sample_sheet" if moment == "samples" else "validate"
    dying[key] = at_step(step, dying[key])
    assert in_child(lambda: start(tmp_path / "killed", **dying, **SETTINGS)) == -signal.SIGKILL
    start(tmp_path / "killed", sample_sheet=sheet, validate=score, **SETTINGS)
    whole, resumed = (
        {n: c for n, c in files(tmp_path / n).items() if "/" not in n} for n in ("unbroken", "killed")
    )
    assert set(whole) == set(resumed) and "loss.png" in whole and "samples-000004.png" in whole
    for name in ("validation.csv", BEST_FILE, "model-000004.safetensors"):
        assert whole[name] == resumed[name], name


def test_a_run_that_is_complete_writes_nothing(start, tmp_path, files):
    asked = {"sample_sheet": sheet, "validate": score, **SETTINGS}
    start(tmp_path, **asked)
    before = files(tmp_path)
    start(tmp_path, **asked)
    assert files(tmp_path) == before and load_checkpoint(tmp_path / BEST_FILE)
