"""Judges a segmentation on the test cases: one row in the table of results, and a table of the cases.

    python run_segmentation_evaluation.py --test_data_dir real --gt_dir real/labelsTs \\
        --trained_model_path trained_models/P_SwinUNETR/best_model.pt --model_name SwinUNETR \\
        --output_pred_dir predictions/P --results_csv evaluation_results.csv --experiment_name P

With `--trained_model_path none` the predictions in --output_pred_dir are judged as they are, whatever made
them: one `<case>.nii.gz` for each case. A second run with the same experiment and model replaces its row.
Metrics and what they are for empty masks: metrics.py. Columns: results.py.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from evaluation_pipeline.cases.evaluation import (
    EvaluationCase,
    LabelScheme,
    check_references,
    find_cases,
    find_predictions,
    label_scheme,
    prediction_path,
    read_label_map,
    spacing_mm,
)
from evaluation_pipeline.cases.patients import patient_of
from evaluation_pipeline.judging import results
from evaluation_pipeline.judging.figures import CASES_SHOWN, PicturedCase, save_cases_sheet, worst_first
from evaluation_pipeline.judging.metrics import TOLERANCES_MM, case_metrics, wall_metrics
from evaluation_pipeline.segmentation.predictions import (
    check_origin,
    check_segmenter,
    fingerprint,
    predict_cases,
)
from LeFusion.dataset.volume import check_same_grid
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import command_parser, run_with_flags


def evaluate(
    cases: Sequence[EvaluationCase],
    predictions: Path,
    scheme: LabelScheme,
    experiment: str,
    model: str,
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
) -> list[dict]:
    """Judges the predictions of all cases; -> for each case a row of `all`, and of each class if several.

    Raises ValueError for a prediction of another geometry or with unexpected labels.
    """
    rows = []
    for case in tqdm(cases, unit="case", desc="judging"):
        path = prediction_path(predictions, case)
        volume, reference = read_label_map(case.label, scheme)
        predicted_volume, prediction = read_label_map(path, scheme)
        check_same_grid(predicted_volume, volume)
        prediction, reference = scheme.judged(prediction, reference)
        values = list(scheme.lesions.values())
        metrics = case_metrics(prediction, reference, spacing_mm(volume), values, tolerances_mm)
        if scheme.wall:
            shares = wall_metrics(prediction, reference, values, scheme.wall)
            metrics = {value: metrics[value] | shares[value] for value in values}
        described = {"Experiment Name": experiment, "Model": model, "Case": case.name}
        files = {"Image": case.image, "Label": case.label, "Prediction": path}
        files = {name: str(file.absolute()) for name, file in files.items()}
        files |= {results.DIGEST: fingerprint(path)}
        of_classes = [
            described
            | {"Patient": patient_of(case.name), "Class": name, "Labels": str(value)}
            | files
            | metrics[value]
            for name, value in scheme.lesions.items()
        ]
        rows.append(results.mean_over_classes(of_classes))
        if len(of_classes) > 1:
            rows.extend(of_classes)
    return rows


def save_picture(path: Path, rows: Sequence[dict], scheme: LabelScheme, model: str) -> None:
    """The worst cases by Dice, worst first."""
    worst = worst_first([row for row in rows if row["Class"] == results.ALL], "Dice")[:CASES_SHOWN]
    cases = [
        PicturedCase(
            f"{row['Case']}\nDice {row['Dice']:.3f}",
            Path(row["Image"]),
            Path(row["Label"]),
            (Path(row["Prediction"]),),
        )
        for row in worst
    ]
    classes = {name: [value] for name, value in scheme.lesions.items()}
    save_cases_sheet(path, cases, classes, [model])


def run(arguments: argparse.Namespace) -> None:
    check_arguments(arguments)
    results_csv, model = arguments.results_csv, arguments.model_name
    experiment = arguments.experiment_name or default_experiment(arguments)
    predictions = arguments.output_pred_dir or Path("predictions") / experiment
    test_data_dir = images_folder(arguments.test_data_dir)
    if results_csv.exists():
        results.read_results(results_csv)  # a file that is no table is refused before hours of work
    cases = find_cases(test_data_dir, arguments.gt_dir)
    scheme = label_scheme(test_data_dir, arguments.gt_dir, arguments.lesion_labels)
    if arguments.trained_model_path is None:
        if predictions.resolve() == arguments.gt_dir.resolve():
            raise UserError(f"--output_pred_dir {predictions}: is the folder of the real labels")
        find_predictions(predictions, cases)
        check_origin(predictions, cases)
        check_references(cases, scheme)
    else:
        # here: MONAI's networks are not needed to judge what is there
        from evaluation_pipeline.segmentation.segmenter import load_segmenter

        checkpoint = arguments.trained_model_path
        segmenter = load_segmenter(checkpoint, model, arguments.device)
        check_segmenter(segmenter, scheme, checkpoint)
        seen = [*segmenter.metadata.get("real_cases", ()), *segmenter.metadata.get("synthetic_sources", ())]
        check_patients(seen, cases, checkpoint)
        check_references(cases, scheme)
        settings = {"overlap": arguments.val_overlap, "mirror": not arguments.no_mirroring}
        anew = predict_cases(segmenter, cases, predictions, checkpoint, model, **settings)
        print(f"{anew} of {len(cases)} cases predicted, {len(cases) - anew} taken from an earlier run")

    rows = evaluate(cases, predictions, scheme, experiment, model, arguments.tolerance_mm)
    table = results.summarise(rows, arguments.tolerance_mm)
    cases_csv = results.write_cases(results_csv, rows)
    picture = cases_csv.with_suffix(".png")
    save_picture(picture, rows, scheme, model)
    results.append_rows(results_csv, table)
    print(results.results_markdown(table, results.metric_columns(arguments.tolerance_mm)))
    print(f"\nwrote {results_csv} (row of {experiment}, {model}), {cases_csv}, {picture}")
    print(f"predictions: {predictions}")


def check_patients(trained_on: Sequence[str], cases: Sequence[EvaluationCase], checkpoint: Path) -> None:
    """Raises ValueError when a case is of a patient that the segmenter was trained on.

    trained_on: real cases, and those that synthetic images were painted into or that lent a lesion.
    """
    known = {patient_of(name) for name in trained_on}
    seen = [case.name for case in cases if patient_of(case.name) in known]
    if seen:
        raise UserError(
            f"{checkpoint}: was trained on patients of {len(seen)} of the {len(cases)} cases to judge, such "
            f"as {seen[0]}; judge it on others"
        )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises ValueError for values that cannot be."""
    for option in ("experiment_name", "model_name"):
        if getattr(arguments, option) is not None and not getattr(arguments, option).strip():
            raise UserError(f"--{option} is empty; give a name")
    if arguments.trained_model_path is None and arguments.output_pred_dir is None:
        raise UserError(
            "give --trained_model_path, a model to predict with, or --output_pred_dir, the folder of "
            "predictions to judge as they are"
        )
    if not 0 <= arguments.val_overlap < 1:
        raise UserError(f"--val_overlap {arguments.val_overlap} must be at least 0 and below 1")
    tolerances = arguments.tolerance_mm
    if len(set(tolerances)) < len(tolerances) or not all(0 <= t < math.inf for t in tolerances):
        raise UserError(f"--tolerance_mm {tolerances} must be different numbers of at least 0")


def images_folder(test_data_dir: Path) -> Path:
    """The folder of the test images: imagesTs of a data set's root, or the folder itself."""
    inside = test_data_dir / "imagesTs"
    return inside if inside.is_dir() else test_data_dir


def default_experiment(arguments: argparse.Namespace) -> str:
    """The name of the row: of the model's folder (with _last for last_model.pt), of a model's file of any
    other name, or of the folder of predictions that are judged as they are."""
    path = (arguments.trained_model_path or arguments.output_pred_dir).absolute()
    if arguments.trained_model_path is None or path.is_dir():
        return path.name
    endings = {"best_model.pt": "", "last_model.pt": "_last"}
    return path.parent.name + endings[path.name] if path.name in endings else path.stem


def checkpoint_path(text: str) -> Path | None:
    return None if text.lower() == "none" else Path(text)


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    add = described.add_argument
    add(
        "--test_data_dir",
        type=Path,
        required=True,
        help="images, <case>_0000.nii.gz or <case>.nii.gz, or a folder with imagesTs in it",
    )
    add("--gt_dir", type=Path, required=True, help="real labels, <case>.nii.gz; dataset.json in or above it")
    add(
        "--trained_model_path",
        type=checkpoint_path,
        help="best_model.pt of a training, or its folder; none (default): judge what is there",
    )
    add("--model_name", required=True, help="SwinUNETR, nnUNet, UNet; any name when predictions are judged")
    add(
        "--output_pred_dir",
        type=Path,
        help="predictions are written to, or read from, here (default predictions/<experiment>)",
    )
    add(
        "--results_csv",
        type=Path,
        default=Path("evaluation_results.csv"),
        help="table that gets the row (default evaluation_results.csv)",
    )
    add(
        "--experiment_name",
        help="name of the row, such as P+N' or P_seed0 (default: that of the model's folder or file)",
    )
    add("--val_overlap", type=float, default=0.5, help="overlap of sliding windows (default 0.5)")
    add(
        "--tolerance_mm",
        type=float,
        nargs="+",
        default=list(TOLERANCES_MM),
        help="tolerances of the surface Dice (default 1 2)",
    )
    add(
        "--lesion_labels",
        type=int,
        nargs="+",
        help="lesion labels to judge (default: those of dataset.json that are no anatomy, or 1)",
    )
    add("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda (default auto)")
    add("--no_mirroring", action="store_true", help="one prediction a case instead of the mean of eight")
    return described


def main(argv: Sequence[str] | None = None) -> None:
    run_with_flags(parser(), run, argv)


if __name__ == "__main__":
    main()
