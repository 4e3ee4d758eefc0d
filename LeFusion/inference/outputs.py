"""What a run of inference writes for a case and a texture type, and whether it is still what was written."""

from dataclasses import dataclass, field
from pathlib import Path

from LeFusion.dataset.boxes import Box
from LeFusion.dataset.cases import Case
from LeFusion.inference.job import Job
from LeFusion.inference.notes import Note
from LeFusion.inference.report import Manifest
from LeFusion.runtime.kept import is_whole
from LeFusion.textures.look import Look


@dataclass(frozen=True)
class Output:
    """One image to paint: a case under texture type `kind` (1..types), and where it goes."""

    case: Case
    kind: int
    boxes: tuple[Box, ...]  # one for each part, see LoadedCase.parts
    looks: tuple[Look, ...] = field(compare=False)  # and what its lesions are to look like
    image_path: Path
    label_path: Path
    shape: tuple[int, ...]  # stored
    made_from: str  # see Manifest.made_from
    notes: tuple[Note, ...] = ()

    @property
    def edit_path(self) -> Path:
        """Of save_edit_mask."""
        return self.image_path.parent.with_name(f"Edit_{self.kind}") / self.label_path.name

    def files(self, job: Job) -> dict[Path, str]:
        """What is written, and the manifest's column for the hash of each."""
        files = {self.image_path: "image_sha256", self.label_path: "label_sha256"}
        return files | ({self.edit_path: "edit_sha256"} if job.save_edit_mask else {})

    def damaged_file(self, job: Job, manifest: Manifest) -> Path | None:
        """The first file of a kept output that is not the one that was written; None: all are."""
        row = manifest.rows.get((self.case.name, self.kind), {})
        files = self.files(job).items()
        return next((path for path, column in files if not is_whole(path, row.get(column), self.shape)), None)
