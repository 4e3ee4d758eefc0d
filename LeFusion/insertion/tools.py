"""What lesions are made with: networks, textures and what the data type says."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from DiffMask.inference.masks import ShapeMaker, ShapeSettings
from LeFusion.box_painter import BoxPainter
from LeFusion.dataset.axes import refuse_turned
from LeFusion.dataset.hounsfield import refuse_other_units
from LeFusion.dataset.volume import Volume
from LeFusion.diffusion import load_checkpoint
from LeFusion.errors import UserError
from LeFusion.painting import DTYPES
from LeFusion.runtime.commandline import choose_device, given_path, say_weights
from LeFusion.runtime.hashing import sha256_of_file
from LeFusion.settings import InsertSettings
from LeFusion.textures.conditions import Conditions
from LeFusion.textures.palette import Palette, default_palette


@dataclass(frozen=True, eq=False)
class Tools:
    """What lesions are made with, loaded once.

    Attributes:
        settings: what the data type is, and how lesions are painted.
        painter: paints them.
        maker: makes their shapes; None for hearts, where these are drawn without a network.
        palette: the textures to choose from.
        weights: file name -> sha256 of each network's.
    """

    settings: InsertSettings
    painter: BoxPainter
    maker: ShapeMaker | None
    palette: Palette
    weights: dict[str, str]

    @classmethod
    def of(cls, settings: InsertSettings, painter: BoxPainter | None = None) -> "Tools":
        """Loads the networks; that of lesions only if no painter is given. Raises UserError for settings that
        do not fit them."""
        path = given_path(settings.model_path)
        if painter is None:
            checkpoint = load_checkpoint(path, settings.weights)
            say_weights(path, checkpoint.metadata["format"])
            painter = BoxPainter.of_settings(settings, checkpoint)
            checkpoint.network.to(choose_device(settings.device), DTYPES[settings.precision])
        files, maker = [path], None
        if not settings.layout.hearts:
            files.append(given_path(settings.mask_model_path))
            maker = ShapeMaker(
                ShapeSettings(
                    str(files[-1]),
                    settings.weights,
                    settings.region_size,
                    mask_sampler=settings.mask_sampler,
                    num_steps=settings.mask_steps,
                    max_redraws=settings.max_redraws,
                    batch_size=settings.batch_size,
                    device=settings.device,
                    compile=settings.compile,
                )
            )
        weights = {file.name: sha256_of_file(file) for file in files}
        return cls(settings, painter, maker, default_palette(settings), weights)

    @property
    def unit(self) -> str:
        """Of intensities; "" where scans have none in common."""
        return self.settings.unit or ""

    def refuse(self, image: Volume) -> None:
        """Raises UserError for a scan whose slices lie along another axis, or that is not in HU."""
        given = self.settings
        if given.modality == "CT":
            refuse_turned(image, given.layout, given.diffusion_depth_size, given.data_type)
            refuse_other_units(image, given.window)

    def conditions(self, textures: Mapping[str, str | int | None], what: Mapping[str, str]) -> Conditions:
        """Of the textures, one for each lesion.

        textures: address of a lesion -> realistic (a real lesion of like size), mixture, the name or the
        number of one; None: default_texture. what: how messages call the lesion, "" for the setting. Raises
        UserError for an unknown one.
        """
        by_size, given = self.palette.table is not None, self.settings
        mixture = Conditions(self.palette, True, given.histogram_perturbation, given.histogram_bins, seed=0)
        chosen = {}
        for address, texture in textures.items():
            name = given.default_texture if texture is None else texture
            if by_size and name == "realistic":
                continue
            index = mixture.choose(address, 1) if name == "mixture" else self.palette.index(name)
            start = f"{what[address]}: " if what[address] else ""
            if not self.palette.names:
                raise UserError(
                    f"{start}texture={name} needs textures; fit_textures.py finds those of a data set"
                )
            if index is None:
                drawn = "realistic, mixture" if by_size else "mixture"
                raise UserError(
                    f"{start}texture={name} must be {drawn}, or one of the textures: 1 to "
                    f"{len(self.palette.names)}, {', '.join(self.palette.names)}"
                )
            try:
                self.palette.refuse_empty([index])
            except UserError as error:
                raise UserError(f"{start}{error}") from None
            chosen[address] = index
        return replace(mixture, of_case=chosen, by_size=by_size)
