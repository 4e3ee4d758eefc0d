"""Bad settings are named."""

import math

import pytest

from LeFusion.errors import UserError
from LeFusion.runtime.validation import text
from LeFusion.training.settings import TrainingSettings


def test_learning_rate_by_hand():
    constant = TrainingSettings(train_lr=2.0, warmup_steps=4)
    assert [constant.learning_rate(step) for step in (0, 1, 3, 4, 100)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainingSettings(train_lr=2.0, lr_schedule="cosine", train_num_steps=12)
    assert [cosine.learning_rate(step) for step in (0, 4, 6, 8, 12)] == pytest.approx([2, 1.5, 1, 0.5, 0])


@pytest.mark.parametrize(
    "name, value",
    [
        ("train_num_steps", 0),
        ("train_num_steps", "many"),
        ("batch_size", 2.5),
        ("gradient_accumulate_every", 0),
        ("save_and_sample_every", -1),
        ("keep_checkpoints", 0),
        ("keep_checkpoints", -1),
        ("num_workers", -1),
        ("warmup_steps", -1),
        ("train_lr", "fast"),
        ("train_lr", math.nan),
        ("max_grad_norm", -1.0),
        ("lr_schedule", "linear"),
        ("ema_decay", 1.0),
        ("ema_decay", None),
        ("precision", "fp8"),
        ("device", "nonsense"),
        ("seed", "x"),
    ],
)
def test_a_bad_setting_is_named(name, value):
    with pytest.raises(UserError, match=f"^{name}={text(value)} must be"):
        TrainingSettings.of({name: value})
