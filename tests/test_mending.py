"""What is mended in a painted box: black specks, dark lines at walls, the seam where the rim ends."""

from dataclasses import replace

import pytest
import torch
from scipy.ndimage import gaussian_filter

from LeFusion import ordering
from LeFusion.guidance import Guide
from LeFusion.mending import mended
from LeFusion.prepared import Prepared


def prepared(darkest):
    image = torch.tensor([-0.6, -0.9, -0.6, -0.6]).reshape(1, 1, 1, 4)
    edit = torch.tensor([True, True, True, False]).reshape(1, 1, 1, 4)
    return Prepared(image, edit, edit, ("a",), darkest=darkest)


def test_black_specks_are_lifted_to_the_darkest_or_to_what_was_there():
    painted = torch.tensor([-1.0, -1.0, 0.2, -1.0]).reshape(1, 1, 1, 4)
    wanted = torch.tensor([-0.8, -0.9, 0.2, -1.0]).reshape(1, 1, 1, 4)
    assert torch.equal(mended(painted, prepared(-0.8)), wanted)
    assert torch.equal(mended(painted, prepared(None)), painted)


def test_the_surface_of_a_wall_is_no_dark_line_beside_a_lesion():
    """Voxels that the scan shares between wall and lung are as bright as what is on both sides, now."""
    image = torch.full((1, 9, 9, 9), 0.4)  # lesion and wall
    image[:, :, :, 4] = -0.1
    image[:, 4, 4, 4] = 0.6
    seam = torch.zeros(9, 9, 9, dtype=torch.bool)
    seam[2:7, 2:7, 4] = True
    nothing = torch.zeros(1, 9, 9, 9, dtype=torch.bool)
    found = mended(image, Prepared(image, nothing, nothing, ("a",), seam=seam))
    wanted = torch.where(seam, torch.full_like(image, 0.4), image)
    wanted[:, 4, 4, 4] = 0.6
    assert torch.equal(found, wanted)
    for without in (None, torch.zeros_like(seam)):
        assert torch.equal(mended(image, Prepared(image, nothing, nothing, ("a",), seam=without)), image)


def test_bright_specks_around_a_lesion_are_dimmed_but_for_what_was_there():
    image = torch.full((1, 1, 1, 6), -0.7)
    image[..., 5] = 0.3  # a vessel, the voxel beside it may be as bright
    edit = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    lesions = edit & (torch.arange(6) < 2)
    prepared_ = Prepared(image, lesions, edit, ("a",), brightest=-0.1)
    painted = torch.tensor([0.5, -0.9, 0.5, -0.9, 0.5, 0.5]).expand(1, 1, 1, 6)
    wanted = torch.tensor([0.5, -0.9, -0.1, -0.9, 0.3, 0.3]).expand(1, 1, 1, 6)
    assert torch.equal(mended(painted, prepared_), wanted)
    assert torch.equal(mended(painted, replace(prepared_, brightest=None)), painted)


def test_the_scan_s_vessels_run_on_into_a_lesion():
    """In the rim as they are, in the lesion no brighter than it; where the lesion is brighter, it stays."""
    image = torch.full((1, 5, 5, 8), -0.9)
    image[:, 2, 2] = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2, -0.5, -0.5, -0.5])
    vessels = image[0] > -0.6
    edit = torch.ones(1, 5, 5, 8, dtype=torch.bool)
    edit[..., 7] = False
    given = Prepared(image, edit & (torch.arange(8) >= 3), edit, ("a",), vessels=vessels)
    given = replace(given, histogram=torch.eye(16)[6])  # up to -0.125
    painted = torch.full_like(image, -0.3)
    wanted = painted.clone()
    wanted[:, 2, 2] = torch.tensor([0.2, 0.2, 0.2, -0.125, -0.125, -0.3, -0.3, -0.3])
    assert torch.equal(mended(painted, given), wanted)
    assert torch.equal(mended(painted, replace(given, vessels=None)), painted)


def faded(painted, scan, share):
    nothing = torch.ones(1, *share.shape, dtype=torch.bool)
    return mended(painted, Prepared(scan, nothing, nothing, ("a",), share=share))


def test_what_is_painted_fades_into_the_scan():
    """All of either at the ends; of what is smooth a mean, in the outer half."""
    share = torch.linspace(0, 1, 9).expand(9, 9, 9)
    generator = torch.Generator().manual_seed(0)
    painted, scan = (torch.rand(1, 9, 9, 9, generator=generator) - 0.5 for _ in range(2))
    found = faded(painted, scan, share)
    assert torch.allclose(found[..., 0], scan[..., 0], atol=1e-6) and torch.equal(
        found[..., 8], painted[..., 8]
    )
    flat = faded(torch.full_like(scan, 0.5), torch.full_like(scan, -0.5), share)
    assert torch.allclose(flat[0], (2 * share).clamp(max=1) - 0.5, atol=1e-6)


def test_a_mean_of_two_noises_is_as_noisy_as_they_are():
    generator = torch.Generator().manual_seed(0)
    painted, scan = (0.1 * torch.randn(1, 30, 30, 30, generator=generator) for _ in range(2))
    found = faded(painted, scan, torch.full((30, 30, 30), 0.5))
    assert float(found.std()) == pytest.approx(0.1, rel=0.05)
    assert float(((painted + scan) / 2).std()) < 0.075


def test_what_scan_and_painting_share_stays_as_it_is():
    """A wall and a vessel: fading makes no line beside them."""
    scan = torch.full((1, 16, 16, 16), -0.7)
    scan[..., 12:], scan[:, 8, 8, :12] = 0.5, 0.2
    found = faded(scan.clone(), scan, torch.linspace(1, 0, 16).expand(16, 16, 16))
    assert torch.allclose(found, scan, atol=1e-5)


def test_fading_leaves_no_specks():
    generator = torch.Generator().manual_seed(0)
    painted, scan = (0.2 * torch.randn(1, 12, 12, 12, generator=generator) - 0.5 for _ in range(2))
    edit = torch.ones(1, 12, 12, 12, dtype=torch.bool)
    given = Prepared(
        scan, edit & False, edit, ("a",), darkest=-0.6, brightest=-0.4, share=torch.full((12, 12, 12), 0.5)
    )
    found = mended(painted, given)
    assert bool((found >= scan.clamp(max=-0.6) - 1e-6).all())
    around = torch.nn.functional.max_pool3d(scan, 3, 1, 1)
    assert bool((found <= around.clamp(min=-0.4) + 1e-6).all())


def test_nothing_fades_beyond_what_is_painted_or_without_a_share():
    painted, scan, share = torch.zeros(1, 4, 4, 4), torch.ones(1, 4, 4, 4) / 2, torch.full((4, 4, 4), 0.25)
    edit = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    edit[:, :2] = True
    prepared = Prepared(scan, edit, edit, ("a",), share=share)
    assert torch.equal(mended(painted, prepared), torch.where(edit, 0.25, painted))
    assert torch.equal(mended(painted, replace(prepared, share=None)), painted)


def test_a_painting_is_as_smooth_across_slices_as_the_scan_where_it_is_guided(monkeypatch):
    """By intensity guidance of any strength, and only where that acts."""
    generator = torch.Generator().manual_seed(0)
    painted = 0.2 * torch.randn(1, 20, 20, 20, generator=generator)
    edit = torch.zeros(1, 20, 20, 20, dtype=torch.bool)
    edit[:, 4:16, 4:16, 4:16] = True
    histogram = torch.exp(-0.5 * ((torch.arange(64) / 32 - 1) / 0.2) ** 2)[None, None]
    loud = (1.0, 0.5, 2.0, 2.0)  # too loud for any voxel to be a dot
    guide = Guide(torch.where(edit, 0, -1)[None], (histogram,), (loud,), (None,))
    given = Prepared(torch.zeros_like(painted), edit, edit, ("a",), histogram[0, 0], guide)
    found = mended(painted, given)
    assert torch.equal(found[~edit], painted[~edit])
    inside = found[0, 4:16, 4:16, 4:16]
    across, within = ((inside.diff(dim=axis)).square().mean() for axis in (0, 1))
    assert float(across) < 0.4 * float(within)
    assert float(inside.std()) == pytest.approx(0.2, rel=0.05)
    assert torch.equal(mended(painted, given, strength=0), painted)
    half = mended(painted, given, strength=0.5)
    assert torch.allclose(half, (painted + found) / 2, atol=1e-6)
    monkeypatch.setattr(ordering, "_without_sheets", lambda fine, *_: fine * torch.nan)
    assert torch.equal(mended(painted, given), found)  # sheets are taken out of predictions alone
    for noise in (None, (1.0,), (1.0, 0.0, 2.0, 2.0)):
        unknown = replace(given, guide=replace(guide, grain=(noise,)))
        assert torch.equal(mended(painted, unknown), painted)
    without = replace(given, guide=replace(guide, histograms=(torch.zeros_like(histogram),)))
    assert torch.equal(mended(painted, without), painted)


def test_a_painting_that_is_too_smooth_gets_as_much_fine_structure_as_real_lesions_have():
    noise = torch.randn(1, 20, 20, 20, generator=torch.Generator().manual_seed(0)).numpy()
    painted = torch.from_numpy(gaussian_filter(noise, (0, 1.5, 1.5, 1.5)))
    edit = torch.ones(1, 20, 20, 20, dtype=torch.bool)
    histogram = torch.exp(-0.5 * ((torch.arange(64) / 32 - 1) / 0.2) ** 2)[None, None]
    guide = Guide(
        torch.zeros(1, 1, 20, 20, 20, dtype=torch.int64), (histogram,), ((0.1, 1, 1, 1),), *((None,),)
    )
    given = Prepared(torch.zeros_like(painted), edit, edit, ("a",), histogram[0, 0], guide)

    def fine(image):
        return float((image[0].numpy() - gaussian_filter(image[0].numpy(), 1.0)).std() / image.std())

    assert fine(mended(painted, given)) > 1.3 * fine(painted)


def test_a_lone_voxel_is_no_farther_from_those_beside_it_than_the_noise_allows():
    """Dots that matching makes; those of the scan outside stay, and two dark voxels side by side."""
    painted = torch.full((1, 9, 9, 16), -0.5)
    painted[:, 4, 4, 3], painted[:, 4, 4, 6], painted[:, 4, 4, 9:11], painted[:, 4, 4, 14] = (
        -0.9,
        0.3,
        -0.9,
        -0.9,
    )
    edit = (torch.arange(16) < 12).expand(1, 9, 9, 16)
    nothing = torch.zeros(1, 1, 16)
    guide = Guide(torch.full((1, 1, 9, 9, 16), -1), (nothing,), ((0.1, 1.0, 1.0, 1.0),), (None,))
    given = Prepared(painted, edit, edit, ("a",), nothing[0, 0], guide)
    found = mended(painted, given)[0, 4, 4]
    assert found[[3, 6, 14]].tolist() == pytest.approx([-0.6, -0.2, -0.9])
    assert found[9:11].tolist() == pytest.approx([-0.9, -0.9])
    assert int((found != painted[0, 4, 4]).sum()) == 2
    for noise in (None, (0.1,)):
        unknown = replace(given, guide=replace(guide, grain=(noise,)))
        assert torch.equal(mended(painted, unknown), painted)
    assert torch.equal(mended(painted, given, strength=0), painted)
