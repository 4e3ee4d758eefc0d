"""Painting as a MONAI transform: MONAI's randomness, metadata and inverses."""

import pickle
import re

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from monai.transforms import Compose, Orientationd, RandFlipd

from LeFusion import Painter, RandPaintLesiond, UserError
from LeFusion.runtime.commandline import PROJECT_ROOT

SHAPE = (12, 24, 20)
AFFINE = torch.diag(torch.tensor([0.8, 0.9, 2.0, 1.0], dtype=torch.float64))


@pytest.fixture
def painter(save_network):
    sizes = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 1}
    return Painter.load(save_network(), device="cpu", **sizes)


@pytest.fixture
def item():
    image = torch.from_numpy(np.random.default_rng(0).integers(-1000, 300, (1, *SHAPE)).astype(np.float32))
    mask = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    mask[0, 3:7, 8:13, 6:11] = 1
    return {"image": MetaTensor(image, affine=AFFINE), "lesion": MetaTensor(mask, affine=AFFINE)}


def paints(painter, **options):
    return RandPaintLesiond("image", "lesion", painter, **options)


def test_what_is_painted_is_what_the_painter_paints(painter, item):
    before = {key: value.clone() for key, value in item.items()}
    painted = paints(painter, prob=1).set_random_state(seed=3)(item)["image"]
    seed = painted.meta["painted_seed"]
    again, texture = painter.paint_named(item["image"], item["lesion"], seed=seed)
    assert torch.equal(painted, again)
    assert painted.meta["painted_texture"] == texture  # that of the real lesion drawn
    assert texture in ("ground-glass", "part-solid", "solid")
    assert isinstance(painted, MetaTensor) and torch.equal(painted.affine, AFFINE)
    assert (
        all(torch.equal(item[key], before[key]) for key in item) and "painted_seed" not in item["image"].meta
    )


def test_the_random_state_is_monai_s(painter, item):
    transform = paints(painter, prob=0.5)
    runs = []
    for _ in range(2):
        transform.set_random_state(seed=1)
        runs.append([transform(item)["image"].meta["painted_seed"] for _ in range(8)])
    assert runs[0] == runs[1]
    painted = [seed for seed in runs[0] if seed >= 0]
    assert 1 <= len(painted) <= 7 and len(set(painted)) == len(painted)


def test_the_label_is_of_what_was_painted(painter, item):
    made = [paints(painter, prob=prob, label_key="label")(item) for prob in (0, 1)]
    assert not made[0]["label"].any() and torch.equal(made[0]["image"], item["image"])
    assert torch.equal(made[1]["label"], item["lesion"])
    assert not torch.equal(made[1]["image"], item["image"])
    organ = torch.full((1, *SHAPE), 2, dtype=torch.int64)
    made = paints(painter, prob=1, label_key="organ")(item | {"organ": organ})
    assert made["organ"].dtype == torch.int64 and organ.unique().tolist() == [2]
    lesion = item["lesion"].as_tensor() > 0
    assert (made["organ"][lesion] == 1).all() and (made["organ"][~lesion] == 2).all()


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_a_mask_may_be_of_any_type(painter, item, kind):
    wanted = paints(painter, prob=1, label_key="label").set_random_state(seed=1)(item)
    given = item | {"lesion": item["lesion"].to(kind)}
    made = paints(painter, prob=1, label_key="label").set_random_state(seed=1)(given)
    assert torch.equal(made["image"], wanted["image"]) and torch.equal(made["label"], wanted["label"])
    arrays = {key: value.numpy() for key, value in given.items()}
    made = paints(painter, prob=1, label_key="label").set_random_state(seed=1)(arrays)
    assert np.array_equal(made["label"], wanted["label"]) and made["label"].any()


def test_an_image_beside_the_lesion_stays(painter, item):
    beside = item | {"lesion": item["lesion"] * 0}
    made = paints(painter, prob=1, label_key="label")(beside)
    assert torch.equal(made["image"], item["image"]) and not made["label"].any()
    assert made["image"].meta["painted_seed"] == -1


def test_arrays_are_painted_as_well(painter, item):
    arrays = {key: value.numpy() for key, value in item.items()}
    made = paints(painter, prob=1, label_key="label")(arrays)
    assert isinstance(made["image"], np.ndarray) and made["image"].shape == (1, *SHAPE)
    assert (made["image"] != arrays["image"])[arrays["lesion"] > 0].mean() > 0.9
    assert made["label"].dtype == np.uint8 and np.array_equal(made["label"], arrays["lesion"])


def test_inverses_of_others_pass_over_it(painter, item):
    chain = Compose(
        [
            Orientationd(["image", "lesion"], "SPL", labels=None),
            paints(painter, prob=1),
            RandFlipd(["image", "lesion"], prob=1, spatial_axis=0),
        ]
    )
    made = chain(item)
    assert made["image"].meta["painted_seed"] >= 0 and made["image"].shape != item["image"].shape
    back = chain.inverse(made)
    assert back["image"].shape == item["image"].shape and torch.allclose(back["image"].affine, AFFINE)
    outside = item["lesion"].as_tensor() == 0
    assert torch.equal(back["image"].as_tensor()[outside], item["image"].as_tensor()[outside])


def test_painted_and_unpainted_images_make_a_batch(painter, item):
    transform = paints(painter, prob=0.5, label_key="label").set_random_state(seed=1)
    batch = list_data_collate([transform(item) for _ in range(6)])
    seeds = [int(seed) for seed in batch["image"].meta["painted_seed"]]
    assert batch["image"].shape == (6, 1, *SHAPE) and -1 in seeds and max(seeds) >= 0


def test_workers_paint(painter, item):
    data = Dataset([item] * 4, paints(painter, prob=1))
    made = torch.cat([batch["image"].as_tensor() for batch in DataLoader(data, batch_size=2, num_workers=2)])
    assert made.shape == (4, 1, *SHAPE)
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_it_can_be_sent_to_a_process(painter, item):
    transform = paints(painter, prob=1)
    sent = pickle.loads(pickle.dumps(transform))
    made = [one.set_random_state(seed=5)(item)["image"] for one in (transform, sent)]
    assert torch.equal(*made)


def test_mistakes_are_refused(painter, item):
    with pytest.raises(UserError, match="texture='bright'"):
        paints(painter, texture="bright")
    for options, said in (
        ({"prob": 2}, "prob=2 must be from 0 to 1"),
        ({"label_key": "lesion"}, "'lesion' is given twice"),
        ({"label_key": "image"}, "'image' is given twice"),
        ({"painter": "lidc"}, "painter: is a str; give what Painter.load returns"),
    ):
        with pytest.raises(UserError, match=said):
            RandPaintLesiond(**{"keys": "image", "mask_key": "lesion", "painter": painter} | options)
    for key, wrong, said in (
        ("lesion", "mask.nii.gz", "lesion: is a str; load it before"),
        ("image", None, "image: is a NoneType; load it before"),
        ("lesion", item["lesion"].bfloat16(), "mask: has data type torch.bfloat16"),
        ("label", item["lesion"][0], r"label: has shape \(12, 24, 20\); give .* of shape \(1, 12, 24, 20\)"),
        ("label", 3, "label: is a int"),
    ):
        with pytest.raises(UserError, match=said):
            paints(painter, prob=1, label_key="label")(item | {key: wrong})
    with pytest.raises(KeyError):
        RandPaintLesiond("scan", "lesion", painter)(item)
    assert "scan" not in RandPaintLesiond("scan", "lesion", painter, allow_missing_keys=True)(item)
    scaled = item | {"image": item["image"] / 1000}
    with pytest.raises(UserError, match="image: its values, .* not in HU"):
        paints(painter, prob=1)(scaled)


def test_the_examples_of_the_docs_run(monkeypatch):
    pytest.importorskip("torchio")
    text = (PROJECT_ROOT / "docs" / "training_loop.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(PROJECT_ROOT)
    names = {"__name__": "docs"}
    for example in examples:
        code = example.replace("num_steps=3", "num_steps=1").replace("num_workers=2", "num_workers=0")
        exec(code.replace("range(2)", "range(1)"), names)
    assert len(examples) == 4 and torch.isfinite(names["loss"])
    image, painted = names["subject"]["ct"].data, names["painted"]["ct"].data
    lesion = names["subject"]["lesion"].data > 0
    assert painted.dtype == image.dtype and (painted != image)[lesion].float().mean() > 0.9
