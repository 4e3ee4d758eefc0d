"""3D Slicer module: place a point, choose a diameter and a texture, click; a lesion is painted into the CT.

Qt and nodes only; everything else is in LeFusionLib. Needs a running `lefusion serve`.
"""

import ctk
import qt
import slicer
import vtk
from LeFusionLib.client import Client, Painting, ServerError
from LeFusionLib.regions import LEAST_MM, MOST_MM, History, Region, RegionError, box_of_roi
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)

TICK_MS = 50  # between two looks at the lesion that is being painted
TURN_SECONDS = 0.01  # of each that its thread may have
PAINTED = "LeFusion.Painted"  # node references of the scan
LESIONS = "LeFusion.Lesions"


class LeFusion(ScriptedLoadableModule):
    """What Slicer lists."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "LeFusion"
        self.parent.categories = ["Simulation"]
        self.parent.contributors = ["The LeFusion authors"]
        self.parent.helpText = "Paints lesions into chest CT. Start a server first: lefusion serve"
        self.parent.acknowledgementText = "LeFusion, https://github.com/M3DV/LeFusion"


class LeFusionWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic, self.painting, self.region, self.scan = LeFusionLogic(), None, None, None
        self._server_panel()
        self._lesion_panel()
        self.layout.addStretch(1)
        self.timer = qt.QTimer()
        self.timer.setInterval(TICK_MS)
        self.timer.connect("timeout()", self.onTick)

    def cleanup(self):
        self.timer.stop()
        if self.painting:
            self.painting.cancel()

    def _form(self, title):
        panel = ctk.ctkCollapsibleButton()
        panel.text = title
        self.layout.addWidget(panel)
        return qt.QFormLayout(panel)

    def _server_panel(self):
        form = self._form("Server")
        settings = qt.QSettings()
        self.address = qt.QLineEdit(settings.value("LeFusion/address", "http://127.0.0.1:8888"))
        self.token = qt.QLineEdit()
        self.token.setEchoMode(qt.QLineEdit.Password)
        self.token.setToolTip("what lefusion serve printed")
        self.connectButton = qt.QPushButton("Connect")
        self.connectButton.connect("clicked(bool)", self.onConnect)
        form.addRow("Address", self.address)
        form.addRow("Token", self.token)
        form.addRow(self.connectButton)

    def _lesion_panel(self):
        form = self._form("Lesion")
        self.volume = self._node_box(["vtkMRMLScalarVolumeNode"], "the CT, in HU")
        self.place = self._node_box(
            ["vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsROINode"], "a point, or a box around the lesion"
        )
        self.placeButton = qt.QPushButton("Place a point")
        self.placeButton.connect("clicked(bool)", self.onPlace)
        self.diameter = ctk.ctkSliderWidget()
        self.diameter.minimum, self.diameter.maximum = LEAST_MM, MOST_MM
        self.diameter.value, self.diameter.suffix = 12, " mm"
        self.diameter.setToolTip("of a lesion at a point; that of a box is its longest side")
        self.texture = qt.QComboBox()
        self.texture.setToolTip("connect to see what there is; the first is the default")
        self.seed = qt.QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setToolTip("another number is another lesion")
        self.paintButton, self.cancelButton, self.undoButton = map(
            qt.QPushButton, ("Paint", "Cancel", "Undo")
        )
        self.paintButton.connect("clicked(bool)", self.onPaint)
        self.cancelButton.connect("clicked(bool)", self.onCancel)
        self.undoButton.connect("clicked(bool)", self.onUndo)
        self.bar = qt.QProgressBar()
        self.bar.setRange(0, 100)
        self.message = qt.QLabel()
        self.message.setWordWrap(True)
        for name, widget in (
            ("CT", self.volume),
            ("Place", self.place),
            ("", self.placeButton),
            ("Diameter", self.diameter),
            ("Texture", self.texture),
            ("Seed", self.seed),
        ):
            form.addRow(name, widget)
        for widget in (self.paintButton, self.cancelButton, self.undoButton, self.bar, self.message):
            form.addRow(widget)
        self._enable()

    def _node_box(self, classes, tip):
        box = slicer.qMRMLNodeComboBox()
        box.nodeTypes = classes
        box.addEnabled = box.removeEnabled = False
        box.noneEnabled = True
        box.setMRMLScene(slicer.mrmlScene)
        box.setToolTip(tip)
        return box

    def _enable(self):
        busy = self.painting is not None
        self.paintButton.enabled, self.cancelButton.enabled = not busy, busy
        self.undoButton.enabled = not busy

    def _client(self):
        qt.QSettings().setValue("LeFusion/address", self.address.text)
        return Client(self.address.text, self.token.text)

    def onConnect(self):
        try:
            client = self._client()
            health = client.health()
            names = client.textures()
        except ServerError as error:
            self.message.text = str(error)
            return
        self.texture.clear()
        self.texture.addItems(names)
        self.message.text = f"connected: version {health['version']}, on {health['device']}"

    def onPlace(self):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Lesion")
        self.place.setCurrentNode(node)
        selection = slicer.app.applicationLogic().GetSelectionNode()
        selection.SetReferenceActivePlaceNodeClassName("vtkMRMLMarkupsFiducialNode")
        selection.SetActivePlaceNodeID(node.GetID())
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        interaction.SetPlaceModePersistence(0)
        interaction.SetCurrentInteractionMode(interaction.Place)

    def onPaint(self):
        self.scan, place = self.volume.currentNode(), self.place.currentNode()
        try:
            self.region = self.logic.region(self.scan, place, self.diameter.value)
            client = self._client()
        except (RegionError, ServerError) as error:
            self.message.text = str(error)
            return
        arrays, diameter_mm = self.region.arrays(), self.region.diameter_mm
        self.painting = Painting(client, arrays, self.texture.currentText, self.seed.value, diameter_mm)
        self.timer.start()
        self._enable()

    def onTick(self):
        painting = self.painting
        painting.give_time(TURN_SECONDS)
        self.bar.value = int(100 * painting.progress)
        self.message.text = painting.message
        if not painting.ended:
            return
        self.timer.stop()
        self.painting = None
        self._enable()
        if self.scan.GetScene() is None:
            self.message.text = "the CT was removed meanwhile"
        elif painting.result is not None:
            try:
                self.logic.show(self.scan, self.region, painting.result)
            except RegionError as error:
                self.message.text = str(error)
            self.seed.value += 1

    def onCancel(self):
        if self.painting:
            self.painting.cancel()

    def onUndo(self):
        self.message.text = self.logic.undo(self.volume.currentNode())


class LeFusionLogic(ScriptedLoadableModuleLogic):
    """Nodes. A scan has one painted volume and one segmentation, which all its lesions go into."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.histories = {}  # by painted volume

    def region(self, scan, place, diameter_mm):
        """What is sent. Raises RegionError where scan or place are missing, or lie apart."""
        if scan is None or place is None:
            raise RegionError("choose a CT and a place")
        if place.IsA("vtkMRMLMarkupsROINode"):
            centre, size = [0.0] * 3, [0.0] * 3
            place.GetCenterWorld(centre)
            place.GetSizeWorld(size)
            point, diameter_mm = box_of_roi(centre, size)
        else:
            points = slicer.util.arrayFromMarkupsControlPoints(place, world=True)
            if not len(points):
                raise RegionError("place a point first")
            point = points[-1]
        to_volume = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, scan.GetParentTransformNode(), to_volume)
        matrix = vtk.vtkMatrix4x4()
        scan.GetIJKToRASMatrix(matrix)
        volume = slicer.util.arrayFromVolume(scan.GetNodeReference(PAINTED) or scan)
        if volume.ndim != 3:
            raise RegionError("choose a CT: one value a voxel")
        affine = slicer.util.arrayFromVTKMatrix(matrix)
        return Region(volume, affine, to_volume.TransformPoint(point), diameter_mm)

    def show(self, scan, region, result):
        """The lesion in the painted volume, and as a segment."""
        painted, lesions = self._painted(scan), self._lesions(scan)
        history = self.histories.setdefault(painted, History())
        segment = f"lesion {len(history) + 1}"
        mask = history.paint(slicer.util.arrayFromVolume(painted), region, result, segment)
        lesions.GetSegmentation().AddEmptySegment(segment, segment)
        slicer.util.arrayFromVolumeModified(painted)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, lesions, segment, painted)
        slicer.util.setSliceViewerLayers(background=painted)

    def undo(self, scan):
        """Takes the last lesion back; says what it did."""
        painted = scan and scan.GetNodeReference(PAINTED)
        history = self.histories.get(painted) if painted else None
        if not history:
            return "there is nothing to undo"
        segment = history.undo(slicer.util.arrayFromVolume(painted))
        slicer.util.arrayFromVolumeModified(painted)
        scan.GetNodeReference(LESIONS).GetSegmentation().RemoveSegment(segment)
        return f"undone; {len(history)} lesions are left"

    def _painted(self, scan):
        painted = scan.GetNodeReference(PAINTED)
        if painted is None:
            name = f"{scan.GetName()} with lesions"
            painted = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, scan, name)
            scan.SetNodeReferenceID(PAINTED, painted.GetID())
        return painted

    def _lesions(self, scan):
        lesions = scan.GetNodeReference(LESIONS)
        if lesions is None:
            name = f"{scan.GetName()} lesions"
            lesions = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            lesions.CreateDefaultDisplayNodes()
            lesions.SetReferenceImageGeometryParameterFromVolumeNode(scan)
            lesions.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
            scan.SetNodeReferenceID(LESIONS, lesions.GetID())
        return lesions
