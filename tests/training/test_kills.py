"""A training that is killed at its worst moments goes on to the same weights."""

import kills
from training_runs import assert_same_run

MOMENTS = {
    "between the temporary file and its name": lambda: kills.at_rename("model-000002"),
    "between the weights and the state": lambda: kills.at_rename("model-000002", after=True),
    "while the state is written": lambda: kills.half_saved("training_state.pt"),
    "before old weights are removed": lambda: kills.at_rename("training_state.pt", after=True),
}
SETTINGS = {"train_num_steps": 3, "save_and_sample_every": 2, "keep_checkpoints": 1}


def test_a_killed_training_goes_on_to_the_same_weights(start, tmp_path, in_child, files):
    def run(folder):
        start(folder, **SETTINGS)

    run(tmp_path / "unbroken")
    unbroken = files(tmp_path / "unbroken")
    for moment, folder in kills.each_resumed(MOMENTS, run, tmp_path, in_child):
        assert_same_run(folder, tmp_path / "unbroken")
        resumed = files(folder)
        events = "tensorboard/"  # each start writes a file of its own
        kept = [[n for n in sorted(found) if not n.startswith(events)] for found in (unbroken, resumed)]
        assert kept[0] == kept[1], moment
        assert unbroken["model-000003.safetensors"] == resumed["model-000003.safetensors"], moment
