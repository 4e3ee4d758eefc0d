"""The settings of a painting run, checked against each other, the data type and the checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from LeFusion.dataset.cases import Case, Layout, find_cases
from LeFusion.dataset.intensity import Window
from LeFusion.dataset.loading import LoadedCase, Reader
from LeFusion.diffusion import Checkpoint, addressed_generator
from LeFusion.errors import UserError
from LeFusion.hearts.tissue import in_heart, relative_histograms, tissue_of
from LeFusion.hearts.transfer import Anatomy, septal_angle, transfer_lesions
from LeFusion.inference.notes import LUNGS, Note, notes_on
from LeFusion.painter import Painter
from LeFusion.runtime.commandline import given_path
from LeFusion.settings import InferenceSettings
from LeFusion.textures.choice import choose_conditions
from LeFusion.textures.conditions import Conditions, histogram_of, own_histogram
from LeFusion.textures.histograms import shift_histogram
from LeFusion.textures.look import Look

DONORS_TRIED = 10  # for one case, where the lesions of the first drawn leave nothing on it


@dataclass(frozen=True)
class Host:
    """A case and the lesions to paint into it. donor: the name of the case that they come from, "" for its
    own; own_histogram: (cond_dim,) of a donor's lesions, stated for this case's healthy tissue."""

    loaded: LoadedCase
    donor: str = ""
    own_histogram: torch.Tensor | None = None


@dataclass(frozen=True)
class Job:
    """How a case is read, and what is painted in it."""

    layout: Layout
    window: Window
    unit: str  # "" where distances and means are in shares of each volume's range
    bins: int
    conditions: Conditions
    painter: Painter
    seed: int
    save_edit_mask: bool
    host: Callable[[Case], Host]
    notes_on: Callable[[LoadedCase], tuple[Note, ...]]

    def looks(self, host: Host, kind: int) -> tuple[Look, ...]:
        """What the lesions of each part of a case are to look like."""
        return self.conditions.looks(host.loaded, kind, self.painter.size, host.own_histogram)

    def requested(self, host: Host, looks: Sequence[Look]) -> torch.Tensor:
        """The histogram asked for, (cond_dim,); zero for classes that the case lacks."""
        return histogram_of(host.loaded, looks, self.painter.size)


class Donors:
    """Cases whose lesions are moved onto other hearts, drawn for each by (seed, its name)."""

    def __init__(
        self, cases: list[Case], layout: Layout, read: Callable[..., LoadedCase], bins: int, seed: int
    ):
        self.cases, self.layout, self.read, self.bins, self.seed = cases, layout, read, bins, seed
        self.anatomy = Anatomy(layout.cavity_label, layout.myocardium_label)
        self._donor = lru_cache(maxsize=256)(self._donor)

    def host(self, case: Case) -> Host:
        """The case with the lesions of the first drawn donor that leave a voxel on it."""
        generator = addressed_generator(self.seed, "donor", case.name)
        others = [donor for donor in self.cases if donor.name != case.name]
        if not others:
            raise UserError(f"{case.mask_path}: no other case in lesions_from could lend a lesion")
        for number in torch.randperm(len(others), generator=generator)[:DONORS_TRIED].tolist():
            donor, angle = self._donor(others[number])

            def moved(values, labels, donor=donor, angle=angle):
                turn = self._angle(values, labels) - angle
                lesions = self.layout.lesion_labels
                return transfer_lesions(donor.labels_dhw, labels, self.anatomy, lesions, turn)

            try:
                loaded = self.read(case, relabel=moved)
            except ValueError as error:
                reason = error
                continue
            return Host(loaded, donor.case.name, self._histogram(donor, loaded))
        raise reason

    def _histogram(self, donor: LoadedCase, loaded: LoadedCase) -> torch.Tensor:
        """(cond_dim,): of the donor's lesions, as they would look in another heart."""
        if loaded.reference_mean is None:  # intensities are absolute
            return own_histogram(donor, self.bins)
        theirs, ours = tissue_of(donor), tissue_of(loaded)
        if theirs is None or ours is None:
            shift = loaded.reference_mean - donor.reference_mean
            return shift_histogram(own_histogram(donor, self.bins), shift, self.bins)
        return in_heart(relative_histograms(donor, theirs), ours, self.bins)

    def _donor(self, case: Case) -> tuple[LoadedCase, float]:
        loaded = self.read(case)
        try:
            values = loaded.axes.to_dhw(loaded.volume.values)
            angle = self._angle(values, loaded.labels_dhw)
        except ValueError as error:
            raise UserError(f"{case.mask_path}: {error}") from error
        return loaded, angle

    def _angle(self, values, labels) -> float:
        return septal_angle(values, labels, self.anatomy, self.layout.lesion_labels)


def make_job(settings: InferenceSettings, checkpoint: Checkpoint) -> Job:
    """Checks the settings against each other and the checkpoint."""
    _refuse_ignored(settings)
    painter = Painter.from_settings(settings, checkpoint)
    read = Reader(settings.layout, settings.window, settings.spacing_mm, painter.refuse)
    return Job(
        settings.layout,
        settings.window,
        settings.unit or "",
        settings.histogram_bins,
        choose_conditions(settings, painter.knows_sizes),
        painter,
        settings.seed,
        settings.save_edit_mask,
        lru_cache(maxsize=2)(_hosts(settings, read)),  # a case's types follow each other
        partial(notes_on, size=painter.size) if settings.data_type == LUNGS else lambda _: (),
    )


def _refuse_ignored(settings: InferenceSettings) -> None:
    """Raises UserError for settings that this condition does not look at."""
    condition = settings.condition
    for key, read_by in (
        ("reference_image", ("reference",)),
        ("reference_mask", ("reference",)),
        ("texture_shares", ("mixture", "realistic")),
    ):
        value = getattr(settings, key)
        if value is not None and (isinstance(condition, list) or condition not in read_by):
            raise UserError(
                f"{key}={value} is read with condition={' or '.join(read_by)}, not with "
                f"condition={condition}; change one of them"
            )


def _hosts(settings: InferenceSettings, read: Callable[..., LoadedCase]) -> Callable[[Case], Host]:
    """Cases with their own lesions, or with those of lesions_from."""
    layout, name = settings.layout, settings.donor
    if not settings.lesions_from:
        if name:
            raise UserError(f"donor={name} needs lesions_from, the data set that it is in")
        return lambda case: Host(read(case))
    if not layout.hearts:
        raise UserError(
            "lesions_from moves lesions between hearts and needs layout.cavity_label and "
            f"layout.myocardium_label; data_type={settings.data_type} has none. Draw lesions in the masks"
        )
    test_txt = given_path(settings.donors_test_txt)
    root = given_path(settings.lesions_from)
    cases = find_cases(root, layout, test_txt, "train" if test_txt else "all")
    if name:
        cases = [case for case in cases if case.name == name]
        if not cases:
            raise UserError(f"donor={name} is no case of {root}, or one of its test cases")
    return Donors(cases, layout, read, settings.histogram_bins, settings.seed).host
