"""Whose lesion a heart gets, and where."""

import numpy as np
from painted_hearts import NORMAL, SICK, TEST_CASE, TEXTURE, assert_painted, manifest_of, source, stored


def test_the_lesion_lies_at_its_address(paint, hearts, donors, tmp_path):
    """The donor's angle between lesion and septum is that of the target, whose septum points elsewhere."""
    code, _, error = paint("Normal", donors, "condition=own", "types=1", f"donor={SICK[0]}")
    assert code == 0, error
    assert {row["donor"] for row in manifest_of(tmp_path / "out")} == {SICK[0]}
    for number, name in enumerate(NORMAL):
        labels = stored(tmp_path / "out" / "Mask" / "Mask_1" / f"{name}.nii.gz")
        offsets = np.argwhere(labels >= 3)[:, :2] - np.array([15 + number, 28])
        directions = np.arctan2(offsets[:, 0], offsets[:, 1])
        middle = np.angle(np.exp(1j * directions).mean())
        expected = (-2.6 + number) + (0.0 - 2.0)  # the donor's lesion at 0, its septum at 2 radians
        assert abs(np.angle(np.exp(1j * (middle - expected)))) < 0.35


def test_a_donor_is_drawn_by_seed_and_name_alone(paint, hearts, donors, tmp_path, files):
    options = (donors, TEXTURE, "types=1")
    paint("Normal", *options, "batch_size=3", out="all")
    (hearts / "Normal" / "images" / f"{NORMAL[0]}.nii.gz").unlink()
    code, _, error = paint("Normal", *options, "batch_size=1", out="fewer")
    assert code == 0, error
    everything, fewer = (files(tmp_path / name) for name in ("all", "fewer"))
    for name, content in fewer.items():
        if name.endswith(".nii.gz"):
            assert content == everything[name]
    assert len([name for name in fewer if name.endswith(".nii.gz")]) == 4
    lent = {row["case"]: row["donor"] for row in manifest_of(tmp_path / "all")}
    assert {row["case"]: row["donor"] for row in manifest_of(tmp_path / "fewer")} == {
        name: lent[name] for name in NORMAL[1:]
    }


def test_donors_differ_by_case_and_seed_and_are_never_test_cases(hearts, save_network, composed):
    from LeFusion.dataset.cases import find_cases
    from LeFusion.diffusion import load_checkpoint
    from LeFusion.inference.job import make_job
    from LeFusion.settings import InferenceSettings

    model = save_network(in_channels=2, data_type="emidec", window="minmax")
    overrides = [
        "data_type=emidec",
        f"model_path={model}",
        f"lesions_from={hearts / 'Pathological'}",
        f"donors_test_txt={hearts / 'Pathological' / 'test.txt'}",
        "diffusion_img_size=24",
    ]
    lent, config, checkpoint = {}, composed("inference", *overrides), load_checkpoint(model, "ema")
    for seed in range(4):
        job = make_job(InferenceSettings.of(config | {"seed": seed}), checkpoint)
        for folder, few in (("Normal", 3), ("Pathological", 2)):
            for case in find_cases(hearts / folder, job.layout)[:few]:
                lent[seed, case.name] = job.host(case).donor
    assert TEST_CASE not in lent.values() and set(lent.values()) == set(SICK[:3])
    assert all(donor != name for (_, name), donor in lent.items())  # a heart gets no lesion of its own
    assert len({tuple(lent[seed, name] for name in NORMAL) for seed in range(4)}) > 2
    assert any(len({lent[seed, name] for name in NORMAL}) > 1 for seed in range(4))


def test_sick_hearts_may_get_the_lesions_of_others(paint, hearts, donors, tmp_path):
    code, _, error = paint("Pathological", donors, "condition=own", "types=1", f"donor={SICK[2]}")
    assert code == 1 and SICK[2] in error and "no other case" in error  # itself
    (hearts / "Pathological" / "images" / f"{SICK[2]}.nii.gz").rename(hearts / "aside.nii.gz")
    code, _, error = paint(
        "Pathological",
        donors,
        "condition=own",
        "types=1",
        f"donor={SICK[0]}",
        "split=test",
        f"test_txt_dir={hearts / 'Pathological' / 'test.txt'}",
    )
    assert code == 0, error
    (row,) = manifest_of(tmp_path / "out")
    now = assert_painted(hearts, tmp_path / "out", TEST_CASE, "1")
    before = source(hearts, TEST_CASE)[1]
    assert row["donor"] == SICK[0] and not np.array_equal(now, before)
    assert (now[before == 3] == 2).any()  # where its own lesion was is healthy now
