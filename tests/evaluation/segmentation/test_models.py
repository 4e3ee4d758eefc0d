import math

import pytest
import torch
from monai.losses import DiceCELoss

from evaluation_pipeline.segmentation.models import (
    MODEL_NAMES,
    SegmentationLoss,
    build_model,
    build_optimizer,
    default_patch_size,
    learning_rate_at,
    patch_multiple,
    plan_pooling,
    round_up,
)

ISOTROPIC = (1.0, 1.0, 1.0)
HEART = (1.458, 1.458, 10.0)


def test_pooling_follows_nnunet_on_a_cube():
    strides, kernels = plan_pooling((128, 128, 128), ISOTROPIC)  # nnU-Net's 3d_fullres of isotropic data
    assert strides == ((1, 1, 1),) + ((2, 2, 2),) * 5 and kernels == ((3, 3, 3),) * 6


def test_pooling_waits_for_coarse_axes():
    strides, kernels = plan_pooling((96, 96, 16), HEART)
    # in plane until 1.458 mm has become 5.8 mm, which is within a factor of 2 of 10 mm; then also the slices
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_few_slices_are_never_halved():
    strides, _ = plan_pooling((96, 96, 7), HEART)
    assert {stride[2] for stride in strides} == {1}
    assert patch_multiple("nnUNet", (96, 96, 7), HEART) == (16, 16, 1)


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("median, spacing_mm", [((32, 64, 64), ISOTROPIC), ((96, 96, 7), HEART)])
@pytest.mark.parametrize("size", ["small", "standard"])
def test_default_patches_suit_their_network(name, median, spacing_mm, size):
    patch = default_patch_size(name, median, spacing_mm, size)
    assert patch == round_up(patch, name, spacing_mm)
    if name != "SwinUNETR" and size == "standard":
        assert all(0 <= side - length < 16 for side, length in zip(patch, median, strict=True))
    if name != "SwinUNETR" and size == "small":
        assert math.prod(patch) <= 32 * 48 * 48


def test_a_large_volume_gives_a_patch_of_limited_size():
    assert default_patch_size("nnUNet", (300, 512, 512), ISOTROPIC) == (128, 128, 128)
    assert default_patch_size("SwinUNETR", (96, 96, 7), HEART, "small") == (64, 64, 32)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_networks_map_a_patch_to_logits(name):
    torch.manual_seed(0)
    patch = (32, 32, 64) if name == "SwinUNETR" else (16, 16, 32)
    network = build_model(name, 1, 3, patch, "small")
    image = torch.rand(2, 1, *patch)
    network.train()
    logits = network(image)
    heads = [logits] if logits.ndim == 5 else logits.unbind(1)
    assert all(head.shape == (2, 3, *patch) for head in heads)
    assert network.eval()(image).shape == (2, 3, *patch)
    SegmentationLoss()(logits, torch.randint(0, 3, (2, 1, *patch)).float()).backward()
    # every parameter takes part, so that several processes can train it
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert not unused


def test_deep_supervision_has_nnunets_heads():
    network = build_model("nnUNet", 1, 2, (32, 48, 48), "small").train()
    # 4 stages: full, half and quarter resolution come out, the quarter without a weight in nnU-Net
    assert network(torch.rand(1, 1, 32, 48, 48)).shape[1] == 2


def test_the_loss_weights_the_resolutions_by_halves():
    loss = SegmentationLoss()
    labels = torch.randint(0, 2, (2, 1, 4, 4, 4)).float()
    heads = [torch.randn(2, 2, 4, 4, 4) for _ in range(3)]
    one, two, three = (float(loss(head, labels)) for head in heads)
    assert float(loss(torch.stack(heads, 1), labels)) == pytest.approx(
        (4 * one + 2 * two + three) / 7, rel=1e-5
    )


def test_a_right_answer_costs_nothing_and_a_wrong_one_much():
    labels = torch.zeros(1, 1, 4, 4, 4)
    labels[..., :2] = 1
    right = torch.cat([-50 * labels + 25, 50 * labels - 25], dim=1)
    assert float(SegmentationLoss()(right, labels)) < 1e-3
    assert float(SegmentationLoss()(-right, labels)) > 1


def test_the_loss_is_dice_and_cross_entropy_of_what_is_not_ignored():
    """Of known voxels alone the loss is MONAI's; what stands in the others changes nothing, nor is learnt."""
    reference = DiceCELoss(
        include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    logits, labels = torch.randn(1, 3, 8, 4, 4), torch.randint(0, 3, (1, 1, 8, 4, 4)).float()
    known = float(reference(logits[:, :, :4], labels[:, :, :4]))
    assert float(SegmentationLoss()(logits, labels)) == pytest.approx(float(reference(logits, labels)))
    labels[:, :, 4:] = 3
    logits.requires_grad_()
    loss = SegmentationLoss(ignore=3)(logits, labels)
    loss.backward()
    assert float(loss) == pytest.approx(known, rel=1e-5)
    assert not logits.grad[:, :, 4:].any() and logits.grad[:, :, :4].any()
    assert float(SegmentationLoss(ignore=3)(logits, torch.full_like(labels, 3))) == 0


def test_only_nnunet_gets_its_optimizer_and_decay():
    network = torch.nn.Linear(2, 2)
    group = build_optimizer("nnUNet", network, 0.01).param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.99, True)
    assert isinstance(build_optimizer("UNet", network, 0.01), torch.optim.AdamW)
    assert learning_rate_at("nnUNet", 0.01, 0) == 0.01
    assert learning_rate_at("nnUNet", 0.01, 0.5) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate_at("UNet", 0.01, 0) < 0.001
    assert learning_rate_at("UNet", 0.01, 0.5) == pytest.approx(0.01 * 0.5**0.9)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("VNet", 1, 2, (32, 32, 32)), "'VNet' is unknown; choose one of SwinUNETR, nnUNet, UNet"),
        (("UNet", 1, 2, (32, 32, 32), "tiny"), "model_size 'tiny' is unknown"),
        (("UNet", 1, 2, (30, 32, 32)), r"multiples of 8 8 8; \(32, 32, 32\) would do"),
        (("SwinUNETR", 1, 2, (32, 64, 48)), r"\(32, 64, 64\) would do"),
        (("SwinUNETR", 1, 2, (32, 32, 32)), r"\(64, 32, 32\) would do"),
        (("nnUNet", 1, 2, (8, 8, 8)), "too small for nnUNet"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(*arguments)
