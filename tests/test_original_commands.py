"""Every command of docs/original_commands.md as printed, in a copy of the project; only sizes are small."""

import csv
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
DEMO = PROJECT / "data/demo"
DOCUMENT = PROJECT / "docs/original_commands.md"
ORIGINAL = Path(os.environ.get("LEFUSION_ORIGINAL_README", PROJECT.parent / "shared" / "original_README.md"))
OUTPUTS = (
    "runs",
    "datasets",
    "trained_models",
    "predictions",
    "logs",
    "evaluation_results*",
    "*.pt",
    "*.partial",
)
# What a python first in PATH appends for each script; it is also the scripts' $PYTHON
SIZES = {
    "LeFusion/train/train.py": "trainer.train_num_steps=1 trainer.batch_size=1 trainer.num_workers=0 "
    "trainer.gradient_accumulate_every=1 trainer.device=cpu crop_size=[8,16,16] "
    "model.dim=8 model.dim_mults=[1,1,1,1] model.attn_heads=2 model.attn_dim_head=8",
    "LeFusion/inference/inference.py": "num_steps=1 region=lesion margin=0 device=cpu",
    "DiffMask/inference/inference.py": "num_steps=1 max_redraws=0 device=cpu",
    "run_segmentation_training.py": "--max_epochs 1 --steps_per_epoch 1 --batch_size 1 --model_size small "
    "--patch_size 32 32 64 --val_overlap 0 --device cpu",
    "run_segmentation_evaluation.py": "--no_mirroring --val_overlap 0 --device cpu",
}

# Importing torch and MONAI takes most of the time of so small a command: one process imports everything, and
# a fork of it becomes each command. The client hands over its arguments, folder, environment and outputs.
SERVER = """
import json, os, runpy, signal, socket, sys
import DiffMask.inference.inference, LeFusion.train.train
import evaluation_pipeline.check_knobs, evaluation_pipeline.judging.figures
import evaluation_pipeline.prepare_real_dataset, tensorboard.summary
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    client, _ = listener.accept()
    if os.fork():
        client.close()
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, outputs, _, _ = socket.recv_fds(client, 1 << 20, 2)
    sys.argv, folder, environment = json.loads(message)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        code = 99
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    client.sendall(bytes([code]))
    os._exit(code)
"""
CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
socket.send_fds(server, [json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()], [1, 2])
sys.exit((server.recv(1) or b"c")[0])
"""


def blocks(path: Path) -> list[str]:
    """The bash blocks of a Markdown file, without the indentation of lists."""
    found = re.findall(r"```bash *\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return ["\n".join(line.strip() for line in block.splitlines()).strip() for block in found]


def archive(path: Path, *members: tuple[Path, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for source, name in members:
            tar.add(source, f"{path.stem}/{name}")


def serve(folder: Path, save_released) -> None:
    """The released files, by the ends of their addresses: made of the demo data, and tiny networks."""
    from LeFusion.diffusion import UNet3D

    lidc, emidec = DEMO / "LIDC/Normal", DEMO / "EMIDEC"
    nodules = []
    for number in range(6):  # five patients to train on, one to test
        image = sorted((lidc / "Image").iterdir())[number % 4]
        mask = lidc / "Mask" / image.name.replace("_CVol_", "_CMask_")
        name = f"SICK-{number}/SICK-{number}"
        nodules += [(image, f"Image/{name}_Vol_1.nii.gz"), (mask, f"Mask/{name}_Mask_1.nii.gz")]
    (folder / "test.txt").write_text("SICK-0_Vol_1\n")
    archive(folder / "LIDC-IDRI/Pathological.tar", *nodules, (folder / "test.txt", "test.txt"))
    archive(folder / "LIDC-IDRI/Normal.tar", (lidc / "Image", "Image"), (lidc / "Mask", "Mask"))
    archive(folder / "LIDC-IDRI/Demo.tar", (lidc / "Image", "Image/Image_1"), (lidc / "Mask", "Mask/Mask_1"))
    archive(folder / "EMIDEC/Normal.tar", (emidec / "Normal/images", "images"))
    archive(
        folder / "EMIDEC/Pathological.tar",
        *((emidec / "Pathological" / part, part) for part in ("images", "labels")),
    )
    sizes = {"dim": 8, "dim_mults": (1, 1, 1, 1), "attn_heads": 2, "attn_dim_head": 8}
    for name, channels in (("lidc", 1), ("emidec", 2)):
        save_released(folder / f"{name}.pt", UNet3D(**sizes, in_channels=channels, cond_dim=16 * channels))
    save_released(folder / "diffmask.pt", UNet3D(**sizes, in_channels=2, out_channels=1))


@pytest.fixture
def shell(tmp_path):
    """-> shell(commands, folder): what bash prints; the folder lies below a copy of the project."""
    copy, served, stubs = tmp_path / "LeFusion", tmp_path / "served", tmp_path / "bin"
    for name in ("LeFusion", "DiffMask", "evaluation_pipeline", "configs"):
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", *OUTPUTS))
    (copy / "data").mkdir()
    for path in (*PROJECT.glob("*.sh"), PROJECT / "requirements.txt", PROJECT / "pyproject.toml"):
        shutil.copy(path, copy)
    served.mkdir()
    serve(served, runpy.run_path(str(PROJECT / "tests/diffusion/test_checkpoint.py"))["save_released"])
    stubs.mkdir()
    server, client = tmp_path / "server.py", tmp_path / "client.py"
    server.write_text(SERVER)
    client.write_text(CLIENT)
    cases = "\n".join(f'*{script}) set -- "$@" {sizes};;' for script, sizes in SIZES.items())
    python = sys.executable
    starts = f'[ "$1" = - ] && exec {python} "$@"\nexec {python} -I -S {client} {tmp_path}/socket "$@"'
    stub_texts = {
        "wget": f'cp "{served}/${{1#*resolve/main/}}" "$3"',
        "python": f'case "$1" in\n{cases}\nesac\n{starts}',
    }
    for name, text in stub_texts.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (stubs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{stubs}:{os.environ['PATH']}",
        "PYTHON": str(stubs / "python"),
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
    }

    def run(commands: str, folder: str = ".", **knobs: str) -> str:
        done = subprocess.run(
            ["bash", "-c", commands],
            cwd=copy / folder,
            env=environment | knobs,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, commands + done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run.root = copy
    serving = subprocess.Popen([sys.executable, server, tmp_path / "socket"], env=environment, cwd=tmp_path)
    while not (tmp_path / "socket").exists() and serving.poll() is None:
        time.sleep(0.1)
    yield run
    serving.kill()
    serving.wait()


@pytest.mark.slow
def test_every_command_of_the_original(shell):
    printed = blocks(DOCUMENT)
    downloads = [block for block in printed if "wget" in block]
    *lesions, diffmask = downloads
    shell("\n".join(lesions))  # each goes on where the one before ended
    shell("set -e\n" + diffmask.replace("mkdir", "mkdir -p"))
    scripts = [block for block in printed if block.startswith("chmod")]
    assert len(scripts) == 6
    pipeline, *steps = (block for block in printed if block.startswith("cd evaluation_pipeline"))
    rest = [b for b in printed if re.search(r"^(python|for|ls) ", b, re.MULTILINE) and b not in steps]
    said = {}

    def networks():
        for block in dict.fromkeys(scripts):  # the DiffMask section prints one of them twice
            said[block] = shell(f"set -e\n{block}")

    def evaluation():
        for block in steps:
            said[block] = shell(f"set -e\n{block}")
        for block in rest:
            if "your_custom_test_data" in block:
                here = shell.root / "evaluation_pipeline"
                for source, name in (
                    ("imagesTs", "your_custom_test_data"),
                    ("labelsTs", "your_ground_truth"),
                ):
                    shutil.copytree(here / "datasets/LIDC_real" / source, here / name)
                model = here / "trained_models/LeFusion_H_P+N_prime_SwinUNETR/best_model.pt"
                shutil.copy(model, here / "path_to_your_model.pt")
            said[block] = shell(f"set -e\n{block}", "evaluation_pipeline")
        said[pipeline] = shell(f"set -e\n{pipeline}", MODEL_NAME="UNet")

    with ThreadPoolExecutor(2) as pool:
        for finished in [pool.submit(networks), pool.submit(evaluation)]:
            finished.result()

    lidc, emidec = (shell.root / "data" / name / "gen" for name in ("LIDC", "EMIDEC"))
    model = shell.root / "LeFusion/LeFusion_Model"
    assert "lidc.pt (released)" in said["chmod +x lidc_inference.sh\n./lidc_inference.sh"]
    assert "emidec.pt (released)" in said["chmod +x emidec_inference.sh\n./emidec_inference.sh"]
    assert [len(list((lidc / f"Image/Image_{kind}").iterdir())) for kind in (1, 2, 3)] == [4, 4, 4]
    assert [len(list((emidec / f"Mask/Mask_{kind}").iterdir())) for kind in (1, 2, 3)] == [4, 4, 4]
    assert list((lidc / "masks/Mask").iterdir())
    assert all((model / f"runs/{name}/model-000001.safetensors").exists() for name in ("lidc", "emidec"))

    here = shell.root / "evaluation_pipeline"
    assert {path.name for path in (here / "datasets").iterdir()} == {"LIDC_real", "LeFusion_H_N_prime"}
    folds = {f"LeFusion_H_N_prime_SwinUNETR_fold{fold}" for fold in range(5)}
    models = {f"LeFusion_H_N_prime_{name}_fold0" for name in ("nnUNet", "UNet")}
    pipelines = {f"LeFusion_H_P+N_prime_{name}" for name in ("SwinUNETR", "UNet")}
    assert {path.parent.name for path in here.glob("trained_models/*/best_model.pt")} == {
        *folds,
        *models,
        *pipelines,
    }
    assert (here / "logs/LeFusion_H_P+N_prime_UNet/train.log").exists()
    assert (here / "predictions/LeFusion_H_P+N_prime_UNet/SICK-0_Vol_1.nii.gz").exists()
    with open(here / "evaluation_results.csv", newline="") as file:
        reader = csv.DictReader(file)
        rows = {(row["Experiment Name"], row["Model"]): row for row in reader}
    assert reader.fieldnames[:5] == ["Experiment Name", "Model", "Dice", "NSD_Proxy_HD95", "Dice Unit"]
    assert set(rows) == {
        ("LeFusion_H_P+N_prime", "SwinUNETR"),
        ("path_to_your_model", "SwinUNETR"),
        ("LeFusion_H_P+N_prime", "UNet"),
    }
    assert all(row["Dice Unit"] == "percent" for row in rows.values())


def test_the_knobs_of_the_script_are_the_originals():
    script = (PROJECT / "evaluation_pipeline/run_monai_pipeline.sh").read_text()
    knobs = [line for block in blocks(DOCUMENT) for line in block.splitlines() if re.match("[A-Z_]+=", line)]
    assert len(knobs) == 10 and knobs.pop() == "BATCH_SIZE=1"  # against a full memory
    knobs[knobs.index("BATCH_SIZE=4")] = "GENERATION_BATCH_SIZE=4"
    for name, value in (line.split()[0].replace('"', "").split("=") for line in knobs):
        assert re.search(rf'^{name}="\$\{{{name}:?-{re.escape(value)}\}}"', script, re.MULTILINE), name


@pytest.mark.skipif(not ORIGINAL.is_file(), reason=f"no {ORIGINAL}; set LEFUSION_ORIGINAL_README to it")
def test_no_command_of_the_original_is_missing():
    ours = blocks(DOCUMENT)
    theirs = blocks(ORIGINAL)
    assert len(theirs) == len(ours) and set(theirs) == set(ours)
