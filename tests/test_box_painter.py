"""What painters leave: no black specks, walls at a lesion as they are, no seam."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from LeFusion import Painter
from LeFusion.box_painter import BoxPainter
from LeFusion.painter_process import _packed, _unpacked
from LeFusion.prepared import Prepared


def painter_of(weights, depth=16, plane=32, **settings):
    """Bundled weights, one network call a lesion."""
    sizes = {"diffusion_depth_size": depth, "diffusion_img_size": plane}
    return Painter.load(weights, num_steps=1, device="cpu", **sizes, **settings)


def test_a_painter_leaves_no_black_specks():
    painter = painter_of("lidc_small", 8, 16)
    image = torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    lesion = torch.zeros(1, 8, 16, 16, dtype=torch.bool)
    lesion[:, 2:6, 5:11, 5:11] = True
    plain = Prepared(image, lesion, lesion, ("a", "case", 1))
    painted, lit = painter.run([plain, replace(plain, darkest=0.5)])
    assert torch.equal(lit, torch.where(lesion, torch.maximum(painted, image.clamp(max=0.5)), painted))
    assert not torch.equal(lit, painted)


def test_a_wall_at_a_lesion_stays_and_the_lung_around_it_is_painted():
    """A nodule at the pleura: its rim is of lung only. Where the lung is as bright, all of the rim is."""
    painter = painter_of("lidc_edit")
    lung = np.random.default_rng(0).normal(-850, 20, (32, 48, 48))
    mask = np.zeros(lung.shape, np.uint8)
    mask[13:19, 20:27, 20:27] = 1
    wall = np.zeros(lung.shape, bool)
    wall[:, :, 27:] = True
    ct = np.where(wall, 40.0, lung)
    changed = np.asarray(painter.paint(ct, mask, seed=1)) != ct
    assert not changed[wall].any() and changed[mask > 0].mean() > 0.9
    rim = changed & (mask == 0)
    assert rim[:, :, :20].any() and rim[:, :20].any()
    without = np.asarray(painter.paint(lung, mask, seed=1)) != lung
    assert (without & (mask == 0))[:, :, 27:].any()


def test_a_vessel_that_runs_into_a_lesion_is_seen_in_it(monkeypatch):
    """And one that the lesion covers as a whole is painted over."""
    monkeypatch.setattr("LeFusion.box_painter.paint", lambda *given: torch.full_like(given[3], -0.6))
    run, seen = BoxPainter.run, []
    monkeypatch.setattr(BoxPainter, "run", lambda self, given: (seen.extend(given), run(self, given))[1])
    ct = np.random.default_rng(0).normal(-850, 20, (32, 48, 48))
    mask = np.zeros(ct.shape, np.uint8)
    mask[10:22, 18:30, 17:27] = 1
    ct[15:17, 23:25, 2:22], ct[19:21, 25:28, 22:25] = 30, 30
    painted = np.asarray(painter_of("lidc_edit", intensity_guidance=0).paint(ct, mask, seed=1))
    assert painted[15:17, 23:25, 2:22] == pytest.approx(30, abs=1)
    assert painted[15:17, 23:25, 24:27] == pytest.approx(-720, abs=1)
    assert painted[19:21, 25:28, 22:25] == pytest.approx(-720, abs=1)
    (box,) = seen
    rim = box.edit[0] & ~box.lesions[0]
    assert bool((rim & box.vessels).any()) and bool((box.guide.layers[0, 0][rim & box.vessels] == -1).all())
    assert bool((box.guide.layers[0, 0][rim & ~box.vessels] >= 0).all())
    sent = Prepared.from_dict(_unpacked(_packed({"box": box.as_dict()}))["box"])  # to another process
    assert sent.guide.grain == box.guide.grain and min(box.guide.grain[0]) > 0
    assert torch.equal(sent.guide.rays[0], box.guide.rays[0])


def test_a_scan_of_one_slice_is_painted():
    ct, mask = np.random.default_rng(0).normal(-850, 20, (1, 48, 48)), np.zeros((1, 48, 48), np.uint8)
    mask[0, 18:30, 17:27] = 1
    painted = np.asarray(painter_of("lidc_edit").paint(ct, mask, seed=1))
    assert np.median(painted[mask > 0]) > -700 and (painted[0, :12] == ct[0, :12]).all()


def test_a_painter_leaves_no_line_between_lesion_and_wall(monkeypatch):
    painter, run, seen = painter_of("lidc_edit"), BoxPainter.run, []
    monkeypatch.setattr(BoxPainter, "run", lambda self, given: (seen.extend(given), run(self, given))[1])
    lung = np.random.default_rng(0).normal(-850, 20, (32, 48, 48))
    mask = np.zeros(lung.shape, np.uint8)
    mask[10:22, 18:30, 17:27] = 1
    ct = lung.copy()
    ct[:, :, 28:], ct[:, :, 27] = 40, -200
    painted = np.asarray(painter.paint(ct, mask, texture="solid", seed=1))
    beside, away = np.s_[13:19, 21:27, 27], np.s_[2:8, 2:14, 27]
    assert np.median(painted[beside]) > -100 and (painted[away] == -200).all()
    assert (painted[:, :, 28:] == 40).all()
    layer, lesion = seen[0].guide.layers[0, 0], seen[0].lesions[0]
    (first, last), middle = lesion.nonzero()[:, 2].aminmax(), [n // 2 for n in lesion.shape[:2]]
    assert 0 < int(layer[(*middle, first)]) < int(layer[(*middle, last)])  # 0 are corners
    strict = np.asarray(painter_of("lidc_edit", edit_margin_mm=0).paint(ct, mask, texture="solid", seed=1))
    assert (strict[mask == 0] == ct[mask == 0]).all()


def test_a_rim_fades_into_the_scan_and_a_label_does_not(monkeypatch):
    """Where nothing is fine, what is painted counts less and less; in the inner three quarters all of it."""
    painter = painter_of("lidc_edit", intensity_guidance=0)
    monkeypatch.setattr("LeFusion.box_painter.paint", lambda *given: torch.zeros_like(given[3]))
    lung = np.full((32, 48, 48), -850.0)
    mask = np.zeros(lung.shape, np.uint8)
    mask[10:22, 18:30, 17:27] = 1
    painted = np.asarray(painter.paint(lung, mask, seed=1))
    line = painted[16, 24, 27:] - lung[16, 24, 27:]
    width = round(painter.edit_margin_mm)
    inner = 3 * width // 4
    assert line[:inner] == pytest.approx(550, abs=1)
    assert (np.diff(line[inner - 1 : width + 1]) < 0).all() and not line[width:].any()
    assert (painted[mask > 0] == painted[16, 24, 22]).all()
    strict = painter_of("lidc_edit", edit_margin_mm=0, intensity_guidance=0)
    assert strict.paint(lung, mask, seed=1)[16, 24, 26] == painted[16, 24, 26]


def test_who_says_until_when_is_guided_leaves_the_rest_to_the_network(monkeypatch):
    """Nothing is matched after that."""
    monkeypatch.setattr("LeFusion.box_painter.paint", lambda *given: torch.full_like(given[3], -0.6))
    ct, mask = np.random.default_rng(0).normal(-850, 20, (32, 48, 48)), np.zeros((32, 48, 48), np.uint8)
    mask[10:22, 18:30, 17:27] = 1
    painter = painter_of("lidc_edit")
    other = replace(painter, sampler=replace(painter.sampler, guided_signal=0.9))
    until, whole = (np.asarray(one.paint(ct, mask, seed=1))[mask > 0] for one in (other, painter))
    assert until.std() < 1 < 50 < whole.std()
