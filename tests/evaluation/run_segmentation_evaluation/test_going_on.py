"""Predictions that exist: of the same checkpoint, of another, or of a run that was interrupted."""

import numpy as np
from judged import CASES, Stub, assert_refused, block, write

from evaluation_pipeline.judging import results


def test_a_second_model_replaces_the_predictions_of_the_first_and_says_so(data, evaluate):
    assert "are replaced" not in evaluate(data, stub=Stub())[1]
    assert "are replaced" not in evaluate(data, stub=Stub())[1]
    (data / "checkpoint.pt").write_bytes(b"another model")
    code, out, _ = evaluate(data, "--experiment_name", "Q", stub=Stub())
    assert code == 0 and f"predictions of {data / 'checkpoint.pt'} or other settings are replaced" in out
    assert "3 of 3 cases predicted" in out
    assert [row["Experiment Name"] for row in results.read_results(data / "results.csv")] == ["P", "Q"]


def test_only_predictions_of_the_same_checkpoint_are_used_again(data, evaluate):
    def predicted(*options) -> int:
        stub = Stub()
        assert evaluate(data, *options, stub=stub)[0] == 0
        return len(stub.calls)

    assert predicted() == 3  # files of unknown origin lie there
    assert predicted() == 0
    (data / "predictions" / f"{CASES[0]}.nii.gz").unlink()
    assert predicted() == 1
    write(data / "predictions" / f"{CASES[1]}.nii.gz", block(0))  # not what was written
    assert predicted() == 1
    write(data / "imagesTs" / f"{CASES[2]}_0000.nii.gz", block(5).astype(np.int16))
    assert predicted() == 1
    assert predicted("--val_overlap", "0.6") == 3
    assert predicted("--val_overlap", "0.6", "--no_mirroring") == 3
    assert predicted("--val_overlap", "0.6", "--no_mirroring", "--model_name", "nnUNet") == 3
    (data / "checkpoint.pt").write_bytes(b"other weights")
    assert predicted() == 3
    assert predicted() == 0


def test_an_interrupted_run_goes_on_and_does_not_pass_for_predictions(data, evaluate):
    class Interrupted(Stub):
        def predict(self, image_path, overlap=0.5, mirror=True):
            if len(self.calls) == 1:
                raise OSError("power cut")
            return super().predict(image_path, overlap, mirror)

    assert_refused(evaluate(data, stub=Interrupted()), "power cut")
    assert not (data / "results.csv").exists()
    # old predictions of other origin are still there for two cases
    assert_refused(evaluate(data), "2 predictions", "A-1_Vol_2, B-2_Vol_1", "predictions.json")
    stub = Stub()
    assert evaluate(data, stub=stub)[0] == 0 and len(stub.calls) == 2
    assert evaluate(data)[0] == 0
