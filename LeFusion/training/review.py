"""What is looked at after a save: samples and a validation. What a stop kept a save from is made up for."""

from collections.abc import Callable
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from LeFusion.diffusion import UNet3D
from LeFusion.runtime.pictures import save_loss_curve
from LeFusion.training.log import Log, Validation


class Review:
    """Of one run. step: that it goes on from; for the others see `train`."""

    def __init__(
        self,
        results_folder: Path,
        step: int,
        sample_sheet: Callable[[UNet3D, Path], None] | None,
        validate: Callable[[UNet3D], dict[str, float]] | None,
    ):
        self.folder, self.sample_sheet = results_folder, sample_sheet
        self.validation = Validation(validate, results_folder, step) if validate else None

    def add(
        self, step: int, ema: UNet3D, board: SummaryWriter, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Samples and validation of what was saved at this step. tell: is told what is being done."""
        if self.sample_sheet is not None:
            tell("drawing samples")
            self.sample_sheet(ema, self._sheet(step))
        if self.validation:
            tell("validating")
            self.validation.add(step, ema, board)

    def make_up(self, step: int, ema: UNet3D, board: SummaryWriter) -> None:
        """Makes what is missing of a save after which the run was stopped."""
        if self._no_sheet(step):
            self.sample_sheet(ema, self._sheet(step))
        if self._no_validation(step):
            self.validation.add(step, ema, board)

    def finish(self, step: int, ema: UNet3D) -> None:
        """The same for a run that was stopped after its last save."""
        if self._no_sheet(step) or self._no_validation(step):
            log = Log(self.folder, step)
            self.make_up(step, ema, log.board)
            log.close()
        if (self.folder / "loss.csv").exists() and not (self.folder / "loss.png").exists():
            self.draw_losses()

    def draw_losses(self) -> None:
        save_loss_curve(self.folder / "loss.csv", self.folder / "loss.png")

    def _sheet(self, step: int) -> Path:
        return self.folder / f"samples-{step:06d}.png"

    def _no_sheet(self, step: int) -> bool:
        return self.sample_sheet is not None and not self._sheet(step).exists()

    def _no_validation(self, step: int) -> bool:
        return self.validation is not None and not self.validation.has(step)
