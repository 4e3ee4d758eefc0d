"""The commands of docs/evaluation.md, as they stand there, with the demo set in place of LIDC."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
DEMO = PROJECT / "data/demo/LIDC/Normal"
TINY = {
    "inference.py": "num_steps=1 device=cpu",
    "run_segmentation_training.py": "--max_epochs 1 --steps_per_epoch 1 --batch_size 1 --model_size small "
    "--num_folds 3 --device cpu",  # three patients are left for training
    "run_segmentation_evaluation.py": "--no_mirroring --device cpu",
}


def documented_commands() -> list[list[str]]:
    """The words of each command in the block that follows "Step by step"."""
    text = (PROJECT / "docs/evaluation.md").read_text(encoding="utf-8")
    block = re.search(r"Step by step:\n+```bash\n(.*?)```", text, re.DOTALL)[1].replace("\\\n", " ")
    return [shlex.split(line) for line in block.splitlines() if not line.startswith("#")]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout whose data/LIDC is the demo set: its regions stand in for normal ones and, with their masks,
    for nodules. Sources are links, so that nothing is written among them."""
    (tmp_path / "evaluation_pipeline").mkdir()
    for source in (PROJECT / "evaluation_pipeline").glob("*.py"):
        (tmp_path / "evaluation_pipeline" / source.name).symlink_to(source)
    for name in ("LeFusion", "configs"):
        (tmp_path / name).symlink_to(PROJECT / name)
    for part in ("Image", "Mask"):
        for kind in ("Normal", "Pathological"):
            folder = tmp_path / "data/LIDC" / kind / part
            folder.mkdir(parents=True)
            for source in (DEMO / part).iterdir():
                name = source.name
                if kind == "Pathological":
                    name = name.replace("_CVol_", "_Vol_").replace("_CMask_", "_Mask_")
                (folder / name).symlink_to(source)
    (tmp_path / "data/LIDC/Pathological/test.txt").write_text("DEMO-0004_Vol_1\n")
    return tmp_path


@pytest.mark.slow
def test_the_steps_of_the_documentation(checkout, save_network):
    tiny = TINY | {"inference.py": f"model_path={save_network()} {TINY['inference.py']}"}

    def run(words: list[str], **replaced: str) -> str:
        assert words[0] == "python"
        words = [replaced.get(word, word) for word in words[1:]]
        command = [sys.executable, *words, *shlex.split(tiny.get(Path(words[0]).name, ""))]
        finished = subprocess.run(
            command,
            cwd=checkout / "evaluation_pipeline",
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert finished.returncode == 0, " ".join(command) + finished.stdout[-1000:] + finished.stderr[-3000:]
        return finished.stdout

    prepare, hold_out, generate, train, evaluate, compare = documented_commands()
    names = [Path(words[1]).name for words in (prepare, hold_out, generate, train, evaluate, compare)]
    assert names == [
        "prepare_real_dataset.py", "held_out_sources.py", "inference.py", "run_segmentation_training.py",
        "run_segmentation_evaluation.py", "compare.py",
    ]  # fmt: skip
    assert "3 training and 1 test cases" in run(prepare)
    assert "1 of 4 scans" in run(hold_out)
    assert "3 cases x 3 types: 9 to paint" in run(generate)
    assert "2 real and 6 synthetic training cases (3 left out" in run(train)
    run(evaluate)
    # the same with real data alone, as the last comment says
    alone = {
        "datasets/LeFusion_H_N_prime": "none",
        "trained_models/SwinUNETR": "trained_models/P",
        "trained_models/SwinUNETR/best_model.pt": "trained_models/P/best_model.pt",
        "predictions/SwinUNETR": "predictions/P",
        "P+N'": "P",
    }
    assert "2 real and 0 synthetic" in run(train, **alone)
    run(evaluate, **alone)
    with open(checkout / "evaluation_pipeline/evaluation_results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["Experiment Name"], row["Model"], row["n"]) for row in rows] == [
        ("P+N'", "SwinUNETR", "1"), ("P", "SwinUNETR", "1")
    ]  # fmt: skip
    table = run(compare)
    assert "| P+N'" in table and "baseline" in table
    made = {path.name for path in (checkout / "evaluation_pipeline/evaluation_results_comparison").iterdir()}
    assert {"comparison.md", "comparison.tex", "comparison.png", "worst_cases.png"} <= made
