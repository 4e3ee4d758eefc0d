"""Which texture each case gets: `textures_of` of a configuration, a mapping or a table."""

from collections.abc import Collection, Mapping
from pathlib import Path

from LeFusion.errors import UserError
from LeFusion.runtime.commandline import given_path
from LeFusion.runtime.given_tables import Rows, read_rows
from LeFusion.textures.palette import Palette

COLUMNS = ("name", "texture", "type")
OTHER_NAMES = {"case": "name", "image": "name", "condition": "texture"}


def textures_of_cases(
    given: str | Mapping[str, str | int], palette: Palette, types: int
) -> dict[str | tuple[str, int], int]:
    """Case, or (case, number of its image from 1) -> number (from 0) of its texture in the palette.

    given: a path, see read_table, or {case: number (from 1) or name of a texture}. types: images of a case.
    Raises UserError, naming case or line, for what is no texture, or no image.
    """
    if not isinstance(given, str):
        return {case: _index(palette, texture, case) for case, texture in given.items()}
    found: dict[str | tuple[str, int], int] = {}
    for what, row in read_table(given):
        kind = row.get("type")
        if kind and not (kind.isdecimal() and 1 <= int(kind) <= types):
            raise UserError(f"{what}: type={kind} must be a number from 1 to types={types}, or empty")
        key = (row["name"], int(kind)) if kind else row["name"]
        if key in found:
            raise UserError(f"{what}: {row['name']} is there twice{f' with type={kind}' if kind else ''}")
        texture = row["texture"]
        found[key] = _index(palette, int(texture) if texture.isdecimal() else texture, what)
    return found


def read_table(path: str) -> Rows:
    """Its rows: name, of an image without its ending; texture, name or number of one; perhaps type, i of
    Image_i, empty for all images of the case. Raises UserError with the line."""
    names, rows = read_rows(given_path(path), "textures_of", COLUMNS, meant=OTHER_NAMES)
    for column in COLUMNS[:2]:
        if column not in names:
            raise UserError(f"{path}: has no column {column}; it needs name and texture")
        for what, row in rows:
            if not row[column]:
                raise UserError(f"{what}: has no {column}")
    if not rows:
        raise UserError(f"{path}: holds no case")
    return rows


def refuse_unknown(path: str, names: Collection[str], where: Path) -> None:
    """Raises UserError, with the line, for a row of the table that is none of these cases."""
    for what, row in read_table(path):
        if row["name"] not in names:
            raise UserError(
                f"{what}: there is no case {row['name']} in {where}; give an image's name without its ending"
            )


def _index(palette: Palette, texture: str | int, what: str) -> int:
    index = palette.index(texture)
    if index is None:
        raise UserError(
            f"{what}: texture {texture!r} is none of the types: 1 to {len(palette.names)}, "
            f"{', '.join(map(repr, palette.names))}"
        )
    try:
        palette.refuse_empty([index])
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    return index
