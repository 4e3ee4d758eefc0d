"""The module for 3D Slicer against a running server: its plain part, and its panel with stand-ins."""

import ast
import importlib
import sys
import time
import types
from unittest.mock import MagicMock

import numpy as np
import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "slicer" / "LeFusion"
TOKEN = "a token of the tests"
# i to the left, j to the back, k up, as most CTs; not at the origin
IJK_TO_RAS = np.array([[-0.8, 0, 0, 60], [0, -0.8, 0, 70], [0, 0, 2.0, -100], [0, 0, 0, 1.0]])


@pytest.fixture
def library(monkeypatch):
    """-> the modules client and regions."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield tuple(importlib.import_module(f"LeFusionLib.{name}") for name in ("client", "regions"))
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("LeFusion_module", "LeFusionLib")
    ]:
        del sys.modules[name]


@pytest.fixture
def volume() -> np.ndarray:
    """A scan (k, j, i)."""
    return np.random.default_rng(0).integers(-1000, 0, (60, 150, 160)).astype(np.int16)


def ended(painting):
    end = time.monotonic() + 20
    while not painting.ended:
        assert time.monotonic() < end, painting.message
        painting.give_time(0.02)
    return painting


def test_it_needs_nothing_but_slicers_python():
    """Python 3.9, NumPy, and what Slicer has."""
    allowed = {"numpy", "LeFusionLib", "ctk", "qt", "slicer", "vtk", "__future__", *sys.stdlib_module_names}
    for path in FOLDER.rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        names = {
            name.partition(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert names <= allowed, path
        assert "zip(" not in path.read_text() or "strict" not in path.read_text()  # of Python 3.10


def test_a_lesion_is_painted_and_undone(library, listening, volume):
    client, regions = library
    before, history = volume.copy(), regions.History()
    point = (IJK_TO_RAS @ [80, 70, 30, 1])[:3]
    with listening() as (address, app):
        server = client.Client(address, TOKEN)
        assert server.health()["status"] == "ok"
        assert server.textures() == ["realistic", "mixture", "solid", "ground-glass"]
        region = regions.Region(volume, IJK_TO_RAS, point, 12)
        painting = ended(client.Painting(server, region.arrays(), "solid", 5, region.diameter_mm))
        assert (painting.message, painting.progress) == ("done", 1.0)
        assert app.state.service.queue._jobs == {}  # the result was fetched, and forgotten
    mask = history.paint(volume, region, painting.result, "lesion 1")
    assert np.argwhere(mask).tolist() == [[30, 70, 80]]
    np.testing.assert_array_equal(volume, before + 100 * mask.astype(np.int16))
    assert len(history) == 1 and history.undo(volume) == "lesion 1" and len(history) == 0
    np.testing.assert_array_equal(volume, before)


def test_only_the_region_is_sent(library, volume):
    _, regions = library
    point = (IJK_TO_RAS @ [5, 70, 30, 1])[:3]
    region = regions.Region(volume, IJK_TO_RAS, point, 12)
    arrays = region.arrays()
    assert arrays["image"].size < volume.size / 2
    k, j, i = region.slices
    np.testing.assert_array_equal(arrays["image"], volume[region.slices].transpose())
    assert i.start == 0 and (np.round(arrays["centre"]) + [i.start, j.start, k.start]).tolist() == [5, 70, 30]
    np.testing.assert_allclose(arrays["affine"] @ [*arrays["centre"], 1], [*point, 1])
    assert (i.stop - 5) * 0.8 >= 36 and (k.stop - 30) * 2 >= 36


def test_lesions_that_overlap_are_undone_in_turn(library, volume):
    _, regions = library
    before, history = volume.copy(), regions.History()
    for number in range(2):
        region = regions.Region(volume, IJK_TO_RAS, (IJK_TO_RAS @ [80, 70, 30 + number, 1])[:3], 10)
        image = region.arrays()["image"].copy()
        mask = np.zeros(image.shape, np.uint8)
        centre = tuple(np.rint(region.centre).astype(int))
        image[centre[0] - 2 : centre[0] + 2] += 50
        mask[centre] = 1
        history.paint(volume, region, {"image": image, "mask": mask}, f"lesion {number + 1}")
    after = volume.copy()
    assert history.undo(volume) == "lesion 2" and (volume != after).any() and (volume != before).any()
    assert history.undo(volume) == "lesion 1"
    np.testing.assert_array_equal(volume, before)


@pytest.mark.parametrize(
    "point, diameter_mm, said",
    [
        ((1000, 0, 0), 12, "the point lies outside of the volume"),
        ((0, 0, 0), 2, "a diameter of 2 mm cannot be made: 3 to 28 mm"),
        ((0, 0, 0), 100, "a diameter of 100 mm cannot be made"),
    ],
)
def test_wrong_places_and_sizes(library, volume, point, diameter_mm, said):
    _, regions = library
    with pytest.raises(regions.RegionError, match=said):
        regions.Region(volume, IJK_TO_RAS, point, diameter_mm)


def test_a_box_is_its_middle_and_its_longest_side(library):
    _, regions = library
    assert regions.box_of_roi([1, 2, 3], [8, 12, 9]) == ((1, 2, 3), 12.0)
    assert regions.box_of_roi([1, 2, 3], [8, 90, 9])[1] == 28.0


def test_cancelling_stops_the_job(library, listening, wait, engine, volume):
    client, regions = library
    region = regions.Region(volume, IJK_TO_RAS, (IJK_TO_RAS @ [80, 70, 30, 1])[:3], 12)
    engine.gate.clear()
    with listening() as (address, app):
        painting = client.Painting(client.Client(address, TOKEN), region.arrays(), "solid", 5, 12)
        assert engine.painting.wait(10) and not painting.ended
        painting.cancel()
        assert ended(painting).message == "cancelled" and painting.result is None
        wait(lambda: app.state.service.queue.counts() == {"waiting": 0, "running": 0})
        assert app.state.service.queue._jobs == {}


def test_what_the_server_refuses_is_one_line(library, listening, volume):
    client, regions = library
    region = regions.Region(volume, IJK_TO_RAS, (IJK_TO_RAS @ [80, 70, 30, 1])[:3], 12)
    with listening(voxels=1000) as (address, _):
        for token, texture, seed, said in (
            ("wrong", "solid", 0, "give the token that the server printed"),
            (TOKEN, "nothing", 0, "texture 'nothing' is unknown"),
            (TOKEN, "solid", -1, "seed: "),
            (TOKEN, "solid", 0, "send the region around the lesion only"),
        ):
            painting = ended(
                client.Painting(client.Client(address, token), region.arrays(), texture, seed, 12)
            )
            assert said in painting.message and "\n" not in painting.message and painting.result is None


def test_without_a_server_it_says_how_to_start_one(library):
    client, _ = library
    with pytest.raises(client.ServerError, match="does not answer .* start it: lefusion serve"):
        client.Client("http://127.0.0.1:9").health()
    for address in ("", "file:///etc/passwd", "ftp://x", "127.0.0.1:8888"):
        with pytest.raises(client.ServerError, match="is no address"):
            client.Client(address)


class Node:
    """What the module uses of a node."""

    def __init__(self, kind, array=None):
        self.kind, self.array, self.references, self.segments = kind, array, {}, {}
        self.GetParentTransformNode = self.GetTransformNodeID = lambda: None
        self.GetID = lambda: f"{kind}{id(self)}"
        self.GetName = lambda: "CT"
        self.GetScene = lambda: "a scene"
        self.IsA = lambda name: name == kind
        self.GetNodeReference = self.references.get
        self.GetSegmentation = lambda: self
        self.RemoveSegment = lambda name: self.segments.pop(name)
        self.CreateDefaultDisplayNodes = lambda: None
        self.SetReferenceImageGeometryParameterFromVolumeNode = lambda node: None
        self.SetAndObserveTransformNodeID = lambda name: None
        self.GetIJKToRASMatrix = lambda matrix: None

    def SetNodeReferenceID(self, name, identity):
        self.references[name] = next(node for node in NODES if node.GetID() == identity)

    def AddEmptySegment(self, name, title):
        self.segments[name] = None
        return name


NODES = []


@pytest.fixture
def panel(library, monkeypatch, volume):
    """The panel, with a CT and a point in it."""
    NODES.clear()
    slicer, qt = MagicMock(), MagicMock()

    def add(node):
        NODES.append(node)
        return node

    slicer.mrmlScene.AddNewNodeByClass = lambda kind, name: add(Node(kind))
    slicer.modules.volumes.logic().CloneVolume = lambda scene, node, name: add(
        Node(node.kind, node.array.copy())
    )
    slicer.util.arrayFromVolume = lambda node: node.array
    slicer.util.arrayFromVTKMatrix = lambda matrix: IJK_TO_RAS
    slicer.util.arrayFromMarkupsControlPoints = lambda node, world: node.array
    slicer.util.updateSegmentBinaryLabelmapFromArray = lambda mask, node, name, volume: node.segments.update(
        {name: mask}
    )
    vtk = MagicMock()
    vtk.vtkGeneralTransform().TransformPoint = tuple
    qt.QSettings().value = lambda key, default: default
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    base.ScriptedLoadableModule = type("Base", (), {"__init__": lambda self, parent: None})
    base.ScriptedLoadableModuleLogic = type("Logic", (), {"__init__": lambda self: None})
    base.ScriptedLoadableModuleWidget = type(
        "Widget", (), {"setup": lambda self: None, "layout": MagicMock()}
    )
    stand_ins = {"slicer": slicer, "qt": qt, "ctk": MagicMock(), "vtk": vtk}
    for name, module in (stand_ins | {"slicer.ScriptedLoadableModule": base}).items():
        monkeypatch.setitem(sys.modules, name, module)
    for widgets, names in (
        (qt, ("QLineEdit", "QComboBox", "QSpinBox", "QLabel", "QProgressBar", "QPushButton")),
        (slicer, ("qMRMLNodeComboBox",)),
    ):
        for name in names:  # each call gives a widget of its own
            setattr(widgets, name, MagicMock(side_effect=lambda *_: MagicMock()))
    spec = importlib.util.spec_from_file_location("LeFusion_module", FOLDER / "LeFusion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    widget = module.LeFusionWidget()
    widget.setup()
    scan = add(Node("vtkMRMLScalarVolumeNode", volume))
    point = Node("vtkMRMLMarkupsFiducialNode", np.array([(IJK_TO_RAS @ [80, 70, 30, 1])[:3]]))
    widget.volume.currentNode = lambda: scan
    widget.place.currentNode = lambda: point
    widget.diameter.value, widget.seed.value, widget.texture.currentText = 12.0, 0, "solid"
    widget.token.text = TOKEN
    return widget


def painted(panel):
    end = time.monotonic() + 20
    while panel.painting:
        assert time.monotonic() < end, panel.message.text
        panel.onTick()
        time.sleep(0.01)


def test_the_panel_paints_shows_and_undoes(panel, listening, engine, volume):
    before = volume.copy()
    with listening() as (address, _):
        panel.address.text = address
        panel.onConnect()
        assert panel.message.text.startswith("connected: version ")
        panel.texture.addItems.assert_called_with(["realistic", "mixture", "solid", "ground-glass"])
        for number in (1, 2):
            panel.onPaint()
            painted(panel)
            assert panel.message.text == "done" and panel.bar.value == 100 and panel.seed.value == number
    scan = panel.volume.currentNode()
    result, lesions = scan.references["LeFusion.Painted"], scan.references["LeFusion.Lesions"]
    np.testing.assert_array_equal(scan.array, before)  # the scan itself stays
    assert result.array[30, 70, 80] == before[30, 70, 80] + 200
    assert {name: np.argwhere(mask).tolist() for name, mask in lesions.segments.items()} == {
        "lesion 1": [[30, 70, 80]],
        "lesion 2": [[30, 70, 80]],
    }
    assert [call[1] for call in engine.calls] == [0, 1]
    for said in ("undone; 1 lesions are left", "undone; 0 lesions are left", "there is nothing to undo"):
        panel.onUndo()
        assert panel.message.text == said
    np.testing.assert_array_equal(result.array, before)
    assert lesions.segments == {}


def test_the_panel_says_what_is_wrong_and_stays_usable(panel, listening, engine):
    place, volume = panel.place.currentNode, panel.volume.currentNode
    panel.place.currentNode = lambda: None
    panel.onPaint()
    assert panel.message.text == "choose a CT and a place" and panel.painting is None
    empty = Node("vtkMRMLMarkupsFiducialNode", np.zeros((0, 3)))
    panel.place.currentNode = lambda: empty
    panel.onPaint()
    assert panel.message.text == "place a point first"
    panel.place.currentNode = place
    panel.address.text = "http://127.0.0.1:9"
    panel.onConnect()
    assert "does not answer" in panel.message.text
    panel.onPaint()
    painted(panel)
    assert "does not answer" in panel.message.text and panel.paintButton.enabled
    assert volume().references == {}  # no volume is made where nothing was painted
    engine.gate.clear()
    with listening() as (address, _):
        panel.address.text = address
        panel.onPaint()
        assert not panel.paintButton.enabled and panel.cancelButton.enabled
        panel.onCancel()
        painted(panel)
        assert panel.message.text == "cancelled" and volume().references == {}
    panel.cleanup()


def test_the_panel_takes_a_box(panel, listening, engine):
    box = Node("vtkMRMLMarkupsROINode")
    box.GetCenterWorld = lambda centre: centre.__setitem__(slice(None), (IJK_TO_RAS @ [80, 70, 30, 1])[:3])
    box.GetSizeWorld = lambda size: size.__setitem__(slice(None), (8, 9, 10))
    panel.place.currentNode = lambda: box
    with listening() as (address, _):
        panel.address.text = address
        panel.onPaint()
        painted(panel)
    assert panel.message.text == "done" and engine.calls[0][3].diameter_mm == 10
