"""A tiny data set, a tiny network and a way to run commands, for the tests of the commands."""

import os
import signal
import sys
import traceback
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

# Tiny tensors: threads would only wait for each other, and a process that has some cannot fork safely
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

# A suite that a script started in the background ignores SIGINT, and so would the commands that it stops
signal.signal(signal.SIGINT, signal.default_int_handler)

# What only some tests need is imported in their fixtures, so that the core's tests start quickly.

# Turned and sheared against the scanner's axes, so that an exchange of axes or a lost shear shows.
OBLIQUE = np.array([[0.7, 0.2, 0.1, -12.5], [-0.2, 0.7, 0.05, 31.0], [0.0, -0.1, 2.5, 7.25], [0, 0, 0, 1]])
TINY_MODEL = {"dim": 8, "dim_mults": [1, 1, 1, 1], "attn_heads": 2, "attn_dim_head": 8}


def write_nifti(path: Path, array: np.ndarray) -> Path:
    """An array with the oblique affine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, OBLIQUE), path)
    return path


def write_case(root: Path, image_name: str, mask_name: str, shape=(8, 16, 16), start=(2, 4, 5), seed=0):
    """One case with a lesion of 3 x 5 x 4 voxels at `start`; -> the paths of its image and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1050, 450, shape).astype(np.int16)  # also outside the window of -1000 to 400 HU
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(s, s + n) for s, n in zip(start, (3, 5, 4), strict=True))] = 1
    return write_nifti(root / "Image" / image_name, image), write_nifti(root / "Mask" / mask_name, mask)


@pytest.fixture
def save_as():
    """-> save_as(codes, path, array, affine): a volume with its axes in another order, such as "ASL"."""
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    def save(codes: str, path: Path, array: np.ndarray, affine: np.ndarray) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
        image = nibabel.Nifti1Image(array, affine).as_reoriented(turn)
        nibabel.save(image, path)
        return np.asanyarray(image.dataobj)

    return save


@pytest.fixture
def lidc(tmp_path) -> Path:
    """A folder with Pathological/ (4 cases, one of them in test.txt) and Normal/ (3 cases of 3 shapes)."""
    root = tmp_path / "LIDC"
    sick = root / "Pathological"
    for number in range(1, 5):
        patient = f"P-{number:04d}"
        names = (f"{patient}/{patient}_Vol_1.nii.gz", f"{patient}/{patient}_Mask_1.nii.gz")
        write_case(sick, *names, start=(number, 3, 6), seed=number)
    (sick / "test.txt").write_text("P-0004_Vol_1\n")
    for number, shape in enumerate(((8, 16, 16), (9, 20, 21), (12, 24, 18)), start=1):
        patient = f"N-{number:04d}"
        names = (f"{patient}/{patient}_CVol_2.nii.gz", f"{patient}/{patient}_CMask_2.nii.gz")
        write_case(root / "Normal", *names, shape=shape, start=(number + 2, 9, 3), seed=number + 10)
    return root


@pytest.fixture
def case_writer():
    """The function that writes one case."""
    return write_case


@pytest.fixture
def tiny_model() -> dict:
    """The arguments of the smallest network that has all of the paper's parts."""
    return dict(TINY_MODEL)


@pytest.fixture
def save_network(tmp_path):
    """-> save(name, **metadata): a file with random weights, as training writes it."""

    from LeFusion.diffusion import UNet3D, save_checkpoint

    def save(
        name: str = "tiny.safetensors",
        in_channels: int = 1,
        bins: int = 16,
        out_channels: int | None = None,
        **metadata,
    ) -> Path:
        torch.manual_seed(0)
        sizes = {"in_channels": in_channels, "out_channels": out_channels or in_channels}
        cond_dim = sizes["out_channels"] * bins
        networks = {weights: UNet3D(**sizes, cond_dim=cond_dim, **TINY_MODEL) for weights in ("model", "ema")}
        described = {
            "data_type": "lidc",
            "schedule": {"kind": "cosine", "num_steps": 6},
            "window": [-1000, 400],
            "region": "whole",
            "histogram_bins": bins,
            "loss": {"cond_dropout": 0.1},
            "step": 3,
        }
        path = tmp_path / name
        save_checkpoint(path, described | metadata, **networks)
        return path

    return save


@pytest.fixture
def save_mask_network(tmp_path):
    """-> save(name, **metadata): a file with random weights, as the training of DiffMask writes it."""

    from LeFusion.diffusion import UNet3D, save_checkpoint

    def save(name: str = "masks.safetensors", **metadata) -> Path:
        torch.manual_seed(0)
        sizes = {"dim": 8, "dim_mults": [1, 1], "attn_heads": 1, "attn_dim_head": 8}
        networks = {key: UNet3D(in_channels=2, out_channels=1, **sizes) for key in ("model", "ema")}
        described = {
            "schedule": {"kind": "cosine", "num_steps": 6},
            "size": [8, 8, 8],
            "spacing_mm": [1, 1, 1],
            "sphere": "signed",
            "prediction": "velocity",
            "step": 3,
        }
        save_checkpoint(tmp_path / name, described | metadata, **networks)
        return tmp_path / name

    return save


@pytest.fixture
def composed():
    """-> composed(config_name, *overrides): the configuration that a command would get, as plain Python."""

    from hydra import compose, initialize_config_dir

    from LeFusion.runtime.commandline import PROJECT_ROOT, plain

    def compose_plain(config_name: str, *overrides: str) -> dict:
        with initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
            return plain(compose(config_name, list(overrides)))

    return compose_plain


@pytest.fixture
def command(capsys):
    """-> command(main, config_name, *overrides): (exit code, stdout, stderr) of it, in this process."""
    from hydra import compose, initialize_config_dir

    from LeFusion.runtime.commandline import PROJECT_ROOT

    def call(main, config_name: str, *overrides: str) -> tuple[int, str, str]:
        with initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
            config = compose(config_name, [str(override) for override in overrides])
        return outcome(lambda: main(config), capsys)

    return call


@pytest.fixture
def command_line(monkeypatch, capsys):
    """-> command_line(main, *overrides): the same with Hydra reading the overrides itself, as in a script."""
    from hydra.core.global_hydra import GlobalHydra

    def call(main, *overrides: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HYDRA_MAIN_MODULE", "__main__")  # configs are found from the file
        monkeypatch.setattr(sys, "argv", ["command", *map(str, overrides)])
        try:
            return outcome(main, capsys)
        finally:
            GlobalHydra.instance().clear()

    return call


def outcome(function, capsys) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a function that may exit."""
    capsys.readouterr()
    code = 0
    try:
        function()
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


@pytest.fixture
def in_child():
    """-> run(function): the wait status of a child process that calls it, for tests that kill."""

    def run(function) -> int:
        child = os.fork()
        if child == 0:
            try:
                function()
                os._exit(0)
            except SystemExit as stopped:
                os._exit(stopped.code)
            except BaseException:
                traceback.print_exc()
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.fixture
def fresh_process_state():
    """What a new process starts with: no state of accelerate, the usual signal handlers."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


@pytest.fixture(autouse=True)
def monai_s_metadata():
    """The training of segmenters switches MONAI's metadata off, for its whole process."""
    yield
    if "monai.data.meta_obj" in sys.modules:
        sys.modules["monai.data.meta_obj"].set_track_meta(True)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def files():
    """-> files(folder): the content of every file below it, by relative path."""
    return snapshot
