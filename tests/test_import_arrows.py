"""Who may import whom, and a few things that no source may do. Read off the sources, without running them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("LeFusion", "DiffMask", "evaluation_pipeline")
FOLDERS = (*PACKAGES, "data", "benchmarks")

# What the modules below a name may import besides the standard library. The longest name that fits counts.
ALLOWED = {
    "LeFusion.diffusion": {"torch", "einops", "numpy", "LeFusion.diffusion", "LeFusion.errors"},
    "LeFusion.textures.histograms": {"torch", "numpy", "scipy", "LeFusion.diffusion", "LeFusion.errors"},
    "LeFusion.dataset": {
        "torch",
        "nibabel",
        "SimpleITK",
        "pydicom",
        "highdicom",
        "numpy",
        "scipy",
        "LeFusion.dataset",
        "LeFusion.textures.histograms",
        "LeFusion.errors",
    },
}
# The same within a function, so that the module can be imported without it
ALLOWED_INSIDE_FUNCTIONS = {"LeFusion.diffusion": {"safetensors"}}
# For all others, what of the project they may import; the world outside is free to them
ALLOWED_OF_THE_PROJECT = {
    "LeFusion": {"LeFusion"},
    "LeFusion.insertion": {"LeFusion", "DiffMask"},
    "LeFusion.server": {"LeFusion", "DiffMask"},
    "DiffMask": {"DiffMask", "LeFusion"},
    "evaluation_pipeline": {
        "evaluation_pipeline",
        "LeFusion.data_types",
        "LeFusion.dataset",
        "LeFusion.errors",
        "LeFusion.hearts",
        "LeFusion.runtime.commandline",
        "LeFusion.runtime.hashing",
        "LeFusion.runtime.pictures",
        "LeFusion.settings",
        "LeFusion.runtime.tables",
        "LeFusion.textures.noise",
        "LeFusion.textures.surroundings",
    },
    "data": set(),
    "data.preparation": {"LeFusion.dataset", "LeFusion.errors", "DiffMask.placement"},
    "data.prepare_lidc": {"LeFusion.dataset"},
    "data.prepare_luna16": {"LeFusion.dataset"},
    "data.prepare_emidec": {"LeFusion.dataset", "LeFusion.errors"},
    "data.cut_regions": {"LeFusion.dataset", "LeFusion.errors"},
    "benchmarks": set(PACKAGES),
}
PROJECT_NAMES = {*FOLDERS, "tests", "configs"}


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def lies_in(module: str, packages) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def imports_of(module: str, source: str) -> list[tuple[str, bool]]:
    """(what is imported, whether inside a function or for type checkers only), in absolute names; `from a
    import b` counts as a.b."""
    found = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, in_function) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            start = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found.extend((f"{base}.{alias.name}", in_function) for alias in node.names)
        in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        in_function |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.iter_child_nodes(node):
            visit(child, in_function)

    visit(ast.parse(source), False)
    return found


def forbidden_imports(module: str, source: str) -> list[str]:
    strict = max((name for name in ALLOWED if lies_in(module, [name])), key=len, default=None)
    found = []
    for name, in_function in imports_of(module, source):
        if name.split(".")[0] in sys.stdlib_module_names:
            continue
        if strict:
            inside = ALLOWED_INSIDE_FUNCTIONS.get(strict, set()) if in_function else set()
            allowed = lies_in(name, ALLOWED[strict] | inside)
        else:
            packages = [name for name in ALLOWED_OF_THE_PROJECT if lies_in(module, [name])]
            of_the_project = ALLOWED_OF_THE_PROJECT[max(packages, key=len)]
            allowed = name.split(".")[0] not in PROJECT_NAMES or lies_in(name, of_the_project)
        if not allowed:
            found.append(name)
    return found


def forbidden_deeds(source: str) -> list[str]:
    """Edits of sys.path, and whatever unpickles things that can run code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            found.append("sys.path")
        if isinstance(node, ast.ImportFrom) and node.module == "sys":
            found.extend("sys.path" for alias in node.names if alias.name == "path")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            found.extend(sorted({"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"} & names))
        if not isinstance(node, ast.Call):
            continue
        keywords = {k.arg: k.value for k in node.keywords}
        called = ast.unparse(node.func)
        safe = keywords.get("weights_only")
        is_true = isinstance(safe, ast.Constant) and safe.value is True
        if (called == "torch.load" or safe is not None) and not is_true:
            found.append("load without weights_only=True")
        allow = keywords.get("allow_pickle")
        if allow is not None and not (isinstance(allow, ast.Constant) and allow.value is False):
            found.append("allow_pickle")
    return found


def private_names(source: str) -> list[str]:
    """Names with a leading underscore that belong to packages of others: the next version may lack them."""
    tree, found, foreign = ast.parse(source), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = getattr(node, "module", None) or ""
            names = [alias.name for alias in node.names]
            private = any(part.startswith("_") for name in (origin, *names) for part in name.split("."))
            of_others = not getattr(node, "level", 0) and origin.split(".")[0] not in PROJECT_NAMES
            if of_others:
                foreign |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
                found += [f"{origin}: {name}" for name in names if private and origin != "__future__"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            public = ast.unparse(node) == "os._exit"  # it is documented
            if (
                not public
                and ast.unparse(node).split(".")[0] in foreign
                or node.attr in vars(torch.nn.Module())
            ):
                found.append(ast.unparse(node))
    return found


def is_command(source: str) -> bool:
    return 'if __name__ == "__main__"' in source


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_sources_keep_the_rules(path):
    module, source = module_name(path), path.read_text()
    assert not forbidden_imports(module, source)
    assert not forbidden_deeds(source)
    assert not private_names(source)


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_only_commands_see_a_configuration(path):
    module, source = module_name(path), path.read_text()
    readers = (
        "LeFusion.runtime.commandline",
        "LeFusion.runtime.overrides",
        "LeFusion.runtime.misspelt",
        "LeFusion.runtime.help",
        "LeFusion.data_types",
        "benchmarks.painted",
    )
    if not is_command(source) and module not in readers:
        roots = {name.split(".")[0] for name, _ in imports_of(module, source)}
        assert not roots & {"hydra", "omegaconf"}


def test_no_two_modules_import_each_other():
    """Imports inside functions count: they only hide a cycle."""
    modules = {module_name(path): path for path in sources() if path.name != "__init__.py"}
    imports = {}
    for module, path in modules.items():
        found = {name for name, _ in imports_of(module, path.read_text())}
        found |= {name.rpartition(".")[0] for name in found}  # `from a import b`: of the module a, or a.b
        imports[module] = found & modules.keys() - {module}
    assert len(imports["evaluation_pipeline.segmentation.segmenter"]) > 3
    assert not [(a, b) for a in imports for b in imports[a] if a < b and a in imports[b]]


def test_diffmask_does_not_lead_to_what_stands_on_it():
    """What of LeFusion imports DiffMask, which imports the rest of it."""
    upper = ["LeFusion.insertion", "LeFusion.server"]
    modules = {module_name(path): path for path in sources()}
    leading = [
        module
        for module, path in modules.items()
        if lies_in(module, PACKAGES) and not lies_in(module, [*upper, "LeFusion.inference.insert"])
        if any(
            lies_in(name, upper)
            for name, in_function in imports_of(module, path.read_text())
            if not in_function
        )
    ]
    assert not leading


def test_the_rules_cover_all_packages():
    names = {module_name(path) for path in sources()}
    assert {"LeFusion.diffusion.unet", "LeFusion.diffusion", "LeFusion.dataset.nifti", "LeFusion"} <= names
    assert {name.split(".")[0] for name in names} <= set(ALLOWED_OF_THE_PROJECT)


@pytest.mark.parametrize(
    "module, source, found",
    [
        ("LeFusion.diffusion.unet", "import torch.nn.functional as F", []),
        ("LeFusion.diffusion.unet", "import monai", ["monai"]),
        (
            "LeFusion.diffusion.unet",
            "from LeFusion.losses import lesion_loss",
            ["LeFusion.losses.lesion_loss"],
        ),
        ("LeFusion.diffusion.unet", "from LeFusion import losses", ["LeFusion.losses"]),
        ("LeFusion.diffusion.unet", "from .. import losses", ["LeFusion.losses"]),
        ("LeFusion.diffusion.unet", "from .schedule import NoiseSchedule", []),
        ("LeFusion.diffusion.checkpoint", "import safetensors", ["safetensors"]),
        ("LeFusion.diffusion.checkpoint", "def f():\n    from safetensors import safe_open", []),
        ("LeFusion.diffusion.checkpoint", "def f():\n    import monai", ["monai"]),
        ("LeFusion.diffusion.checkpoint", "try:\n    import scipy\nexcept ImportError:\n    pass", ["scipy"]),
        ("LeFusion.dataset.nifti", "import nibabel, SimpleITK", []),
        ("LeFusion.dataset.nifti", "import monai", ["monai"]),
        ("LeFusion.dataset.nifti", "def f():\n    import safetensors", ["safetensors"]),
        ("LeFusion.dataset.nifti", "from LeFusion.diffusion import UNet3D", ["LeFusion.diffusion.UNet3D"]),
        ("LeFusion.training.trainer", "import accelerate\nfrom LeFusion.diffusion import UNet3D", []),
        ("LeFusion.training.trainer", "import DiffMask.spheres", ["DiffMask.spheres"]),
        ("LeFusion.training.trainer", "from tests.test_x import y", ["tests.test_x.y"]),
        ("LeFusion.training.trainer", "import benchmarks", ["benchmarks"]),
        ("DiffMask.train.train", "from LeFusion.training.trainer import train\nimport scipy", []),
        ("DiffMask.train.train", "from LeFusion.painting import paint", []),
        ("LeFusion.painting", "from DiffMask.sphere import Sphere", ["DiffMask.sphere.Sphere"]),
        ("LeFusion.insertion.shapes", "from DiffMask.grid import MaskGrid", []),
        ("LeFusion.inference.insert", "from DiffMask.grid import MaskGrid", ["DiffMask.grid.MaskGrid"]),
        ("DiffMask.train.train", "import evaluation_pipeline", ["evaluation_pipeline"]),
        ("evaluation_pipeline.fidelity", "from LeFusion.dataset.scans import read_volume", []),
        (
            "evaluation_pipeline.fidelity",
            "from LeFusion.training.trainer import train",
            ["LeFusion.training.trainer.train"],
        ),
        ("evaluation_pipeline.fidelity", "import DiffMask", ["DiffMask"]),
        ("data.download", "import LeFusion", ["LeFusion"]),
        (
            "data.prepare_lidc_masks",
            "from LeFusion.dataset.scans import stem",
            ["LeFusion.dataset.scans.stem"],
        ),
        ("data.prepare_lidc", "from LeFusion.dataset.scans import stem", []),
    ],
)
def test_the_rules_find_forbidden_imports(module, source, found):
    assert forbidden_imports(module, source) == found


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.path.append('..')",
        "import sys\nsys.path = []",
        "from sys import path",
        "import pickle",
        "from pickle import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load_it(path, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trust)",
    ],
)
def test_the_rules_find_forbidden_deeds(source):
    assert forbidden_deeds(source)


@pytest.mark.parametrize(
    "source",
    [
        "from monai.metrics.utils import _get_table",
        "from torch._dynamo import exc",
        "import torch._inductor",
        "import torch\ntorch._foreach_lerp_(a, b, 1)",
        "from torch import nn\nnn.functional._x",
        "network._forward_hooks",
    ],
)
def test_the_rules_find_private_names(source):
    assert private_names(source)


def test_harmless_sources_pass():
    lines = ("os.path.join(sys.prefix)", "torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)")
    assert not forbidden_deeds("\n".join(lines))
    own = "from __future__ import annotations\nfrom LeFusion.losses import _x\nself._n = cls._y\na.__name__"
    assert not private_names(own)


def test_the_core_imports_without_everything_else():
    blocked = (
        "monai",
        "nibabel",
        "SimpleITK",
        "pydicom",
        "hydra",
        "omegaconf",
        "accelerate",
        "safetensors",
        "matplotlib",
    )
    program = (
        f"import sys\nfor name in {blocked}:\n    sys.modules[name] = None\n"
        "import LeFusion.diffusion\nprint(LeFusion.diffusion.NoiseSchedule.cosine(3).num_steps)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "3"), run.stderr
