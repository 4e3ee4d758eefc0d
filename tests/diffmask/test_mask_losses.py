"""The mask loss against its definition, and its draws against their addresses."""

import pytest
import torch

from DiffMask.losses import MaskLoss, mask_loss
from LeFusion.diffusion import NoiseSchedule

SCHEDULE = NoiseSchedule.cosine(300)


def make_batch(draws, size=(3, 4, 4)):
    """A batch whose samples depend on their draw only."""
    generators = [torch.Generator().manual_seed(draw) for draw in draws]
    return {
        "mask": torch.stack([(torch.rand(1, *size, generator=g) < 0.3) * 2.0 - 1 for g in generators]),
        "sphere": torch.stack([(torch.rand(1, *size, generator=g) < 0.5) * 2.0 - 1 for g in generators]),
        "draw": list(draws),
    }


class Oracle:
    """Knows the masks; tells noise or velocity exactly, plus an offset. Keeps what it was shown."""

    def __init__(self, mask, prediction="noise", offset=0.0):
        self.mask, self.prediction, self.offset = mask, prediction, offset

    def __call__(self, x, t):
        self.x, self.t = x, t
        signal, spread = (v.float().reshape(-1, 1, 1, 1, 1) for v in SCHEDULE.signal_and_noise(t))
        self.noise = (x[:, :1] - signal * self.mask) / spread
        answer = self.noise if self.prediction == "noise" else signal * self.noise - spread * self.mask
        return answer + self.offset


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("loss_type", ["l1", "l2"])
def test_who_knows_the_mask_has_no_loss(loss_type, prediction):
    batch = make_batch(range(6))
    loss_fn = MaskLoss(SCHEDULE, 0, loss_type, prediction)
    assert float(loss_fn(Oracle(batch["mask"], prediction), batch)) == pytest.approx(0, abs=1e-4)
    off = float(loss_fn(Oracle(batch["mask"], prediction, 0.5), batch))
    assert off == pytest.approx(0.5 if loss_type == "l1" else 0.25, rel=1e-3)
    other = "velocity" if prediction == "noise" else "noise"
    assert float(loss_fn(Oracle(batch["mask"], other), batch)) > 0.1


def test_l2_is_a_mean_of_squares():
    output, target = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([1.0, 0.0, 1.0])
    assert float(mask_loss(output, target, "l1")) == 2
    assert float(mask_loss(output, target, "l2")) == pytest.approx(20 / 3)


def test_the_network_sees_the_noisy_mask_and_the_sphere():
    batch = make_batch(range(40))
    oracle = Oracle(batch["mask"])
    MaskLoss(SCHEDULE, 0)(oracle, batch)
    assert torch.equal(oracle.x[:, 1:], batch["sphere"])
    assert float(oracle.noise.var()) == pytest.approx(1, abs=0.1) and abs(float(oracle.noise.mean())) < 0.1
    assert int(oracle.t.min()) < 30 and int(oracle.t.max()) >= 270


def test_draws_have_addresses():
    def shown(draws, seed=0):
        batch = make_batch(draws)
        oracle = Oracle(batch["mask"])
        MaskLoss(SCHEDULE, seed)(oracle, batch)
        return oracle.x, oracle.t

    x, t = shown([5, 6, 7])
    other_x, other_t = shown([7, 5])
    assert torch.equal(other_x, x[[2, 0]]) and torch.equal(other_t, t[[2, 0]])
    assert not torch.equal(shown([5, 6, 7], seed=1)[0], x)


def test_noisy_levels_come_more_often_on_request():
    batch = make_batch(range(200))
    means = []
    for power in (1, 0.4):
        network = Oracle(batch["mask"])
        MaskLoss(SCHEDULE, 0, level_power=power)(network, batch)
        means.append(float(network.t.float().mean()) / 300)
    assert means == pytest.approx([1 / 2, 1 / 1.4], abs=0.06)  # of u^power
    for power in (0, 1.5, "half"):
        with pytest.raises(ValueError, match="level_power"):
            MaskLoss(SCHEDULE, 0, level_power=power)


@pytest.mark.parametrize("option", ["loss_type", "prediction"])
def test_bad_settings_are_named(option):
    with pytest.raises(ValueError, match=f"{option}='other' must be one of"):
        MaskLoss(SCHEDULE, 0, **{option: "other"})
