"""In which order guidance ranks the voxels of a lesion's layers: identities, and what the scan is like."""

import pytest
import torch

from LeFusion.ordering import (
    ALIKE,
    COLUMNS,
    FINE,
    FINE_IN_LAYERS,
    MOST,
    _blurred_inside,
    _covariance,
    _smooth_and_fine,
    _standardised,
    _widths,
    _without_sheets,
    ordered,
    smoothed_as,
)
from LeFusion.textures.histograms import match_intensities
from LeFusion.textures.layers import depth_below_border, rays_through

SIZE = 24
BELL = torch.exp(-0.5 * ((torch.arange(64) / 32 - 1) / 0.3) ** 2)


def noise(seed=0, size=SIZE):
    return torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))


def ball(radius, size=SIZE):
    place = torch.stack(torch.meshgrid(*[torch.arange(size) - (size - 1) / 2] * 3, indexing="ij"))
    return place.square().sum(dim=0).sqrt() <= radius


def differences(image, inside):
    """Mean square of third differences along each axis."""
    found = []
    for axis in range(3):
        one, rows = image.swapaxes(0, axis), inside.swapaxes(0, axis)
        whole = rows[3:] & rows[2:-1] & rows[1:-2] & rows[:-3]
        found.append(float(one.diff(n=3, dim=0)[whole].square().mean()))
    return found


@pytest.mark.parametrize("loud, share", [(0.0, FINE), (0.12, FINE + 0.16), (1.0, MOST)])
def test_fine_structure_has_its_share_of_the_variance_asked_for(loud, share):
    lesion, x_0 = torch.ones(SIZE, SIZE, SIZE, dtype=torch.bool), noise()
    smooth, fine = _smooth_and_fine(x_0, lesion.float())
    assert torch.allclose(smooth + fine, x_0, atol=1e-6)
    ranked = ordered(x_0, [(lesion, BELL)], (loud,))
    matched = match_intensities(ranked.flatten(), BELL).reshape(lesion.shape)
    assert float(matched.std()) == pytest.approx(0.3, rel=0.05)
    both = float((_standardised(smooth) * _standardised(fine)).mean())  # their correlation
    weights = (1 - share) ** 0.5, share**0.5
    along = (weights[0] + weights[1] * both) / (1 + 2 * weights[0] * weights[1] * both) ** 0.5
    assert float((_standardised(matched) * _standardised(smooth)).mean()) == pytest.approx(along, abs=0.02)


def test_the_order_looks_at_the_lesion_only():
    lesion, x_0 = ball(8), noise()
    other = torch.where(lesion, x_0, noise(1))
    first, second = (ordered(one, [(lesion, BELL)], (0.1, 1.0, 4.0, 4.0)) for one in (x_0, other))
    assert torch.equal(first, second) and not bool(first[~lesion].any())


def test_whole_slices_are_no_fine_structure_and_columns_half():
    one, generator = torch.ones(SIZE, SIZE, SIZE), torch.Generator().manual_seed(1)
    slices = torch.randn(SIZE, 1, 1, generator=generator) * one
    assert torch.allclose(_without_sheets(slices, one, 1.0), torch.zeros(()), atol=1e-5)
    columns = noise()[0] * one
    columns -= _blurred_inside(columns, one, (0, ALIKE, ALIKE))
    left = _without_sheets(columns, one, 1.0)
    assert torch.allclose(
        left, (1 - COLUMNS) * (columns - _blurred_inside(columns, one, (0, 2, 2))), atol=1e-5
    )


def changed_by_sheets(rough_across):
    """How far the order of a prediction is from that of a painting; the scan is so rough across slices."""
    lesion, x_0 = torch.ones(SIZE, SIZE, SIZE, dtype=torch.bool), noise()
    grain = (0.5, rough_across, 4, 4)
    predicted, painted = (ordered(x_0, [(lesion, BELL)], grain, predicted=p) for p in (True, False))
    return float((predicted - painted).square().mean().sqrt())


def test_sheets_are_taken_out_as_far_as_the_scan_is_blurred_across_slices():
    assert changed_by_sheets(4) == 0
    assert 0 < 2 * changed_by_sheets(3.5) < changed_by_sheets(1)


def test_each_layer_is_ranked_by_itself():
    inner, outer = ball(5), ball(9) & ~ball(5)
    x_0 = noise() + 3 * inner
    order = ordered(x_0, [(inner, BELL), (outer, BELL)], (0.1,))
    for layer in (inner, outer):
        assert float(order[layer].mean()) == pytest.approx(0, abs=1e-5)
        assert float(order[layer].std()) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("rough", [(1.0, 4.0, 4.0), (4.0, 1.0, 2.0), (4.0, 4.0, 4.0)])
def test_fine_structure_is_as_rough_along_one_axis_to_another_as_the_scan(rough):
    """White noise is blurred along the axes along which the scan is smoother, and not along the roughest."""
    lesion, x_0 = ball(10).float(), noise()
    _, fine = _smooth_and_fine(x_0, lesion)
    widths = _widths(fine, lesion, rough)
    assert min(widths) < 0.2
    found = torch.tensor(differences(smoothed_as(rough, x_0, lesion > 0), lesion > 0))
    assert (found / found.max()).tolist() == pytest.approx([(r / max(rough)) ** 2 for r in rough], abs=0.15)


@pytest.mark.parametrize("rough", [(), (0.0, 4.0, 4.0)])
def test_a_scan_that_is_not_known_along_each_axis_blurs_nothing(rough):
    x_0 = noise()
    assert torch.equal(smoothed_as(rough, x_0, ball(8)), x_0)


def test_covariances_are_of_voxels_inside():
    """By hand: a row of which the last voxel lies outside."""
    row = torch.tensor([1.0, 2.0, -1.0, 3.0, 100.0]).view(1, 1, 5)
    inside = torch.tensor([1.0, 1, 1, 1, 0]).view(1, 1, 5)
    found = [_covariance(row * inside, inside, 2, lag) for lag in (0, 1, 3, 4, 9)]
    assert found == pytest.approx([15 / 4, (2 - 2 - 3) / 3, 3.0, 0.0, 0.0])


def test_strands_run_along_rays_through_the_layers_of_the_rim():
    """Each layer is ranked by itself, but what is bright in one is brighter in the next."""
    lesion, rim = ball(5), ball(9) & ~ball(5)
    layers = [(lesion, BELL), (ball(7) & ~lesion, BELL), (rim & ~ball(7), BELL)]
    rays = rays_through(depth_below_border(lesion, (1, 1, 1)), rim, (1, 1, 1))
    plain, along = (ordered(noise(), layers, (0.1,), given) for given in (None, rays))
    assert torch.equal(plain[lesion], along[lesion])
    near = rays[:, ball(8).flatten()[rays[3]]]

    def alike(order):
        return float(torch.corrcoef(order.flatten()[near[2:4]])[0, 1])

    assert alike(along) > alike(plain) + 0.15


def test_strands_go_on_from_the_scan():
    """A bright rod that ends where the rim ends is continued in it."""
    lesion, rim = ball(5), ball(9) & ~ball(5)
    x_0 = 0.1 * noise()
    x_0[10:14, 10:14, 22:] = x_0[10:14, 10:14, 20:22] = 3.0
    x_0[rim] = 0.1 * noise(1)[rim]
    rays = rays_through(depth_below_border(lesion, (1, 1, 1)), rim, (1, 1, 1))
    plain, along = (ordered(x_0, [(lesion, BELL), (rim, BELL)], (0.1,), given) for given in (None, rays))
    end = torch.zeros_like(rim)
    end[11:13, 11:13, 19:21] = True
    end &= rim
    assert bool(end.any()) and float(along[end].mean()) > float(plain[end].mean()) + 0.5


def test_what_lies_beside_is_blurred_in_as_the_scanner_does():
    """Of itself alone, a lesion's ends stay sharp; nothing is darker at the end of the array."""
    inside = torch.zeros(SIZE, SIZE, SIZE, dtype=torch.bool)
    inside[:10, 4:20, 4:20] = True
    image = torch.where(inside, -0.5 + 0.1 * noise(), 0.9)
    found = smoothed_as((0.5, 4.0, 4.0), image, inside)
    assert torch.equal(found[~inside], image[~inside])
    means = [float(found[n][inside[n]].mean()) for n in range(10)]
    assert means[:5] == pytest.approx([-0.5] * 5, abs=0.03)
    assert -0.4 < means[9] < 0.2 and means[9] > means[8]


def test_a_lesion_of_few_voxels_does_not_tell_how_rough_it_is():
    few = ball(2.5).float()
    assert _widths(noise() * few, few, (1.0, 4.0, 4.0)) == [0, 0, 0]


def share_of_fine(order, x_0, lesion):
    """By regression on the standardised parts."""
    parts = [_standardised(part[lesion]) for part in _smooth_and_fine(x_0, lesion.float())]
    weights = torch.linalg.lstsq(torch.stack(parts, 1), order[lesion][:, None]).solution.flatten()
    return float(weights[1] ** 2 / weights.square().sum())


def test_several_layers_have_more_fine_structure_each():
    lesion, x_0 = torch.ones(SIZE, SIZE, SIZE, dtype=torch.bool), noise()
    half = torch.zeros_like(lesion)
    half[: SIZE // 2] = True
    one = ordered(x_0, [(lesion, BELL)], (0.0,))
    two = ordered(x_0, [(half, BELL), (~half, BELL)], (0.0,))
    assert share_of_fine(one, x_0, lesion) == pytest.approx(FINE, abs=0.01)
    assert share_of_fine(two, x_0, lesion) == pytest.approx(FINE_IN_LAYERS, abs=0.02)


def test_the_order_is_as_smooth_across_slices_as_the_scan():
    lesion, x_0 = ball(10), noise()
    plain, smeared = (ordered(x_0, [(lesion, BELL)], (1.0, *rough)) for rough in ((), (0.5, 4.0, 4.0)))
    before, after = (differences(order, lesion) for order in (plain, smeared))
    assert after[0] / after[1] < 0.7 * before[0] / before[1]
