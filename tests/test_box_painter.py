"""What is painted is nowhere darker than the scan allows, and walls at a lesion stay as they are."""

from dataclasses import replace

import numpy as np
import torch

from LeFusion import Painter
from LeFusion.box_painter import BoxPainter, Prepared, _joined, _lit


def painter_of(weights, depth=16, plane=32, **settings):
    """Bundled weights, one network call a lesion."""
    sizes = {"diffusion_depth_size": depth, "diffusion_img_size": plane}
    return Painter.load(weights, num_steps=1, device="cpu", **sizes, **settings)


def prepared(darkest):
    image = torch.tensor([-0.6, -0.9, -0.6, -0.6]).reshape(1, 1, 1, 4)
    edit = torch.tensor([True, True, True, False]).reshape(1, 1, 1, 4)
    return Prepared(image, edit, edit, ("a",), darkest=darkest)


def test_black_specks_are_lifted_to_the_darkest_or_to_what_was_there():
    painted = torch.tensor([-1.0, -1.0, 0.2, -1.0]).reshape(1, 1, 1, 4)
    wanted = torch.tensor([-0.8, -0.9, 0.2, -1.0]).reshape(1, 1, 1, 4)
    assert torch.equal(_lit(painted, prepared(-0.8)), wanted)
    assert torch.equal(_lit(painted, prepared(None)), painted)


def test_the_darkest_goes_to_another_process():
    assert Prepared.from_dict(prepared(-0.8).as_dict()).darkest == -0.8


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


def test_the_surface_of_a_wall_is_no_dark_line_beside_a_lesion():
    """Voxels that the scan shares between wall and lung are as bright as what is on both sides, now."""
    image = torch.full((1, 9, 9, 9), 0.4)  # lesion and wall
    image[:, :, :, 4] = -0.1
    image[:, 4, 4, 4] = 0.6
    seam = torch.zeros(9, 9, 9, dtype=torch.bool)
    seam[2:7, 2:7, 4] = True
    nothing = torch.zeros(1, 9, 9, 9, dtype=torch.bool)
    found = _joined(image, Prepared(image, nothing, nothing, ("a",), seam=seam))
    wanted = torch.where(seam, torch.full_like(image, 0.4), image)
    wanted[:, 4, 4, 4] = 0.6
    assert torch.equal(found, wanted)
    for without in (None, torch.zeros_like(seam)):
        assert torch.equal(_joined(image, Prepared(image, nothing, nothing, ("a",), seam=without)), image)


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
    layer, lesion = seen[0].guide.layer[0, 0], seen[0].lesions[0]
    (first, last), middle = lesion.nonzero()[:, 2].aminmax(), [n // 2 for n in lesion.shape[:2]]
    assert int(layer[(*middle, first)]) == 0 < int(layer[(*middle, last)])
    strict = np.asarray(painter_of("lidc_edit", edit_margin_mm=0).paint(ct, mask, texture="solid", seed=1))
    assert (strict[mask == 0] == ct[mask == 0]).all()
