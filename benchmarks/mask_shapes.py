"""Are generated lesion masks shaped like real ones? DiffMask against real held-out masks and two baselines.

    python data/prepare_lidc_masks.py --with-outline --out data/LIDC/Nodules
    python benchmarks/mask_shapes.py --masks data/LIDC/Nodules --out outputs/mask_shapes

--masks holds Mask/ and test.txt, the names of the held-out masks. DiffMask makes --count masks from spheres
whose diameters are drawn as those of the training masks; the baselines, a sphere and a randomly deformed
ellipsoid, get the diameter of a held-out mask each. All are then matched in diameter with the held-out masks
(see DiffMask.shapes.shape_table). --least-mm leaves smaller held-out masks out: of small ones little shape is
to be seen on voxels of 1 mm. Tables (Markdown, CSV) and a picture go to --out.
"""

from pathlib import Path

import hydra
import numpy as np
from tqdm import tqdm

from DiffMask.dataset import find_masks, read_lesion
from DiffMask.grid import MaskGrid
from DiffMask.inference.masks import ShapeMaker
from DiffMask.inference.plan import Draft, Scan
from DiffMask.placement.spheres import Placement, draw_diameter
from DiffMask.settings import MaskInferenceSettings
from DiffMask.shapes.baselines import deformed_ellipsoid, sphere
from DiffMask.shapes.features import markdown, shape_features, shape_table
from DiffMask.shapes.pictures import save_surfaces
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.storage import write_text
from LeFusion.diffusion import addressed_generator
from LeFusion.runtime.commandline import PROJECT_ROOT, command_parser, plain
from LeFusion.runtime.tables import write_csv
from LeFusion.settings import LIDC

SIDE = 72  # voxels of 1 mm, room for the largest
MM = (1.0, 1.0, 1.0)
SHOWN = 18


def generate(count: int, settings: MaskInferenceSettings) -> list[np.ndarray]:
    """`count` masks of DiffMask, (D, H, W) bool, from drawn spheres."""
    maker = ShapeMaker(settings)
    middle = (SIDE // 2,) * 3
    drafts = []
    for number in range(1, count + 1):
        generator = addressed_generator(settings.seed, "diameter", number)
        diameter = draw_diameter(generator, LIDC)
        grid = MaskGrid.around(middle, diameter, MM, maker.size, maker.spacing_mm)
        placement = Placement(middle, diameter, float("inf"), 1.0)
        scan = Scan("shapes", Path("shapes"))
        drafts.append(Draft(scan, number, MM, placement, grid, grid.box((SIDE,) * 3)))
    made = tqdm(maker.masks(drafts), total=count, unit="mask", desc="making masks")
    return [mask.astype(bool) for _, mask, _ in made if mask is not None]


def picture(path: Path, columns: dict[str, list[np.ndarray]], seed: int) -> None:
    """Some masks of each column of 6 mm and more, as surfaces, a row of six for each."""
    scenes, names = [], []
    for name, masks in columns.items():
        large = [mask for mask in masks if shape_features(mask)["diameter_mm"] >= 6]
        chosen = np.random.default_rng(seed).permutation(len(large))[: SHOWN // 3]
        scenes += [[large[i]] for i in chosen]
        names += [name] * len(chosen)
    save_surfaces(path, scenes, [MM] * len(scenes), names)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--masks", type=Path, required=True, help="the folder with Mask/ and test.txt")
    parser.add_argument(
        "--model", default=str(PROJECT_ROOT / "DiffMask/DiffMask_Model/LIDC/diffmask_small.safetensors")
    )
    parser.add_argument("--weights", default="ema")
    parser.add_argument("--sampler", default="dpmpp")
    parser.add_argument("--num-steps", type=int, default=25)
    parser.add_argument("--count", type=int, default=600, help="masks that DiffMask makes (default 600)")
    parser.add_argument("--least-mm", type=float, default=0.0, help="smallest diameter of held-out masks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    masks = {
        split: [
            read_lesion(name, path, Layout()).lesion
            for name, path in find_masks(options.masks, Layout(), options.masks / "test.txt", split).items()
        ]
        for split in ("test", "train")
    }
    overrides = [
        f'model_path="{options.model}"',
        f"weights={options.weights}",
        f"mask_sampler={options.sampler}",
        f"num_steps={'null' if options.num_steps is None else options.num_steps}",
        f"seed={options.seed}",
        "batch_size=16",
    ]
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        settings = MaskInferenceSettings.of(plain(hydra.compose("diffmask_inference", overrides)))
    made = generate(options.count, settings)
    held_out = [m for m in masks["test"] if shape_features(m)["diameter_mm"] >= options.least_mm]
    diameters = [shape_features(mask)["diameter_mm"] for mask in held_out]
    shape = (SIDE,) * 3
    columns = {
        "DiffMask": made,
        "deformed ellipsoid": [
            deformed_ellipsoid(d, (options.seed, i), shape) for i, d in enumerate(diameters)
        ],
        "sphere": [sphere(d, (options.seed, i), shape) for i, d in enumerate(diameters)],
    }
    table = shape_table(columns, held_out, masks["train"], seed=options.seed)
    text = markdown(table)
    print(text)
    write_text(options.out / "shapes.md", text + "\n")
    rows = [
        {"measure": measure} | {name: table[name].get(measure) for name in table} for measure in table["real"]
    ]
    write_csv(options.out / "shapes.csv", rows)
    picture(
        options.out / "shapes.png",
        {"real": held_out, "DiffMask": made, "ellipsoid": columns["deformed ellipsoid"]},
        options.seed,
    )
    print(f"wrote shapes.md, shapes.csv and shapes.png in {options.out}")


if __name__ == "__main__":
    main()
