"""The commands of docs/custom_data.md, as they are written, on tiny sizes."""

import re
import shlex
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT

SMALLER = {  # what is added to, or replaced in, the commands of the walk-through
    "make_liver_demo.py": ["--cases", "10", "--shape", "16", "32", "32"],
    "check_dataset.py": ["diffusion_depth_size=16", "diffusion_img_size=32"],
    "train.py": [
        "trainer.train_num_steps=2",
        "trainer.save_and_sample_every=2",
        "trainer.batch_size=1",
        "crop_size=[4,16,16]",
        "timesteps=5",
        "model.dim=8",
        "model.dim_mults=[1,1,1,1]",
        "model.attn_heads=1",
        "model.attn_dim_head=8",
    ],
    "fit_textures.py": ["diffusion_depth_size=16", "diffusion_img_size=32", "types=2"],
    "inference.py": ["diffusion_depth_size=16", "diffusion_img_size=32", "num_steps=2"],
}


def commands() -> list[list[str]]:
    """The words of each command in the bash blocks."""
    text = (PROJECT_ROOT / "docs" / "custom_data.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.fixture
def call(command_line, tmp_path, fresh_process_state):
    """-> call(words): one command, with the folders of the walk-through below tmp_path and tiny sizes."""

    def run(words: list[str]) -> tuple[int, str, str]:
        assert words[0] == "python"
        script = words[1].rpartition("/")[2]
        given = {word.split("=")[0] for word in SMALLER[script]}
        words = [word for word in words[2:] if word.split("=")[0] not in given]
        words = [word.replace("data/custom", str(tmp_path / "custom")) for word in words]
        words = [word.replace("LeFusion/LeFusion_Model", str(tmp_path)) for word in words]
        if script == "make_liver_demo.py":
            words = [word for word in words if not word.isdigit() and word != "--seed"] + SMALLER[script]
            line = [sys.executable, str(PROJECT_ROOT / "data" / script), *words]
            done = subprocess.run(line, capture_output=True, text=True)
            return done.returncode, done.stdout, done.stderr
        tumour, normal = tmp_path / "custom" / "Tumour", tmp_path / "custom" / "Normal"
        words += [*SMALLER[script], f"dataset_root_dir={normal if script == 'inference.py' else tumour}"]
        words += [] if script == "inference.py" else [f"test_txt_dir={tumour / 'test.txt'}"]
        words += [f"output_folder={tmp_path / 'check'}"] if script == "check_dataset.py" else []
        weights = tmp_path / "runs" / "custom" / "model-000002.safetensors"
        words += [f"model_path={weights}"] if script == "inference.py" else []
        return command_line(main_of(script), *words)

    return run


def main_of(script: str):
    import LeFusion.inference.fit_textures
    import LeFusion.inference.inference
    import LeFusion.train.check_dataset
    import LeFusion.train.train

    modules = {
        "check_dataset.py": LeFusion.train.check_dataset,
        "train.py": LeFusion.train.train,
        "fit_textures.py": LeFusion.inference.fit_textures,
        "inference.py": LeFusion.inference.inference,
    }
    return modules[script].main


def test_the_walk_through_runs_as_written(call, tmp_path):
    words = commands()
    assert [line[1].rpartition("/")[2] for line in words] == list(SMALLER)
    for line in words:
        code, out, error = call(line)
        assert code == 0, f"{' '.join(line)}\n{out}\n{error}"
    painted = sorted((tmp_path / "custom" / "gen" / "Image").rglob("*.nii.gz"))
    normal = tmp_path / "custom" / "Normal"
    assert len(painted) == 2 * len(list((normal / "imagesTr").iterdir())) > 0
    for path in painted:
        source = nibabel.load(normal / "imagesTr" / path.name)
        mask = nibabel.load(normal / "labelsTr" / path.name.replace("_0000", "")).get_fdata() == 2
        image = nibabel.load(path)
        changed = image.get_fdata() != source.get_fdata()
        assert np.array_equal(image.affine, source.affine) and changed.any() and not (changed & ~mask).any()
        assert (tmp_path / "custom" / "gen" / "Mask" / f"Mask_{path.parent.name[-1]}").is_dir()
    assert (tmp_path / "custom" / "gen" / "Image" / "preview.png").stat().st_size > 1000
    assert (tmp_path / "custom" / "textures.png").exists() and (
        tmp_path / "check" / "check_dataset.png"
    ).exists()
