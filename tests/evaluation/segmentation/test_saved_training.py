"""What training leaves to look at."""

import pytest
from matplotlib.figure import Figure

from evaluation_pipeline.segmentation import saved_training


@pytest.mark.parametrize(
    "lesions, drawn", [(["nodule"], ["dice nodule"]), (["a", "b"], ["dice", "dice a", "dice b"]), ([], [])]
)
def test_each_dice_is_drawn_once(tmp_path, monkeypatch, lesions, drawn):
    figures = []
    monkeypatch.setattr(
        saved_training, "Figure", lambda **given: figures.append(Figure(**given)) or figures[-1]
    )
    judged = {"dice": 0.5} | {f"dice {name}": 0.5 for name in lesions} if lesions else {}
    saved_training.write_curves(tmp_path, [{"epoch": 1, "loss": 1.0} | judged])
    assert [line.get_label() for line in figures[0].axes[1].lines] == drawn
