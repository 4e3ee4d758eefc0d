"""What a painter paints: boxes of cases. Those of one size go through the network together, those that
overlap one after the other."""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from LeFusion.dataset.boxes import Box
from LeFusion.dataset.loading import LoadedCase
from LeFusion.runtime.memory import BatchSize
from LeFusion.textures.look import Look

Patch = tuple[Tensor, Box]  # (1, *its box.size) in [-1, 1], painted, of the network's grid
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Task:
    """One box to paint: that of part `number` (from 0) of a case.

    boxes: of all parts. look: what its lesions are to look like; None: without condition. address: of the
    noise, such as (seed, case name, type). earlier: what was painted before in the same image.
    """

    loaded: LoadedCase
    number: int
    boxes: tuple[Box, ...]
    look: Look | None
    address: tuple
    earlier: Sequence[Patch] = ()


# (image, number of the part, what was painted before in it) -> its task
MakeTask = Callable[[Key, int, Sequence[Patch]], Task]


def paint_together(
    paint: Callable[[Sequence[Task]], Tensor],
    boxes: Mapping[Key, Sequence[Box]],
    task: MakeTask[Key],
    size: BatchSize,
) -> Iterator[dict[Key, tuple[list[Patch], float]]]:
    """Paints all boxes of these images; after each batch, those whose last box is done: patches in the order
    in which they were painted, and seconds.

    paint: see Painter.paint_boxes. boxes: of each image, one for each part.
    """
    patches: dict[Key, dict[int, Patch]] = {key: {} for key in boxes}
    seconds = dict.fromkeys(boxes, 0.0)
    order = {key: rounds(found) for key, found in boxes.items()}
    for number in range(max(map(len, order.values()), default=0)):
        due: dict[tuple, list[tuple[Key, int]]] = {}  # boxes of one size can go through the network together
        for key, found in boxes.items():
            for part in order[key][number] if number < len(order[key]) else ():
                due.setdefault(found[part].size, []).append((key, part))

        def work(batch: Sequence[tuple[Key, int]]) -> Tensor:
            return paint([task(key, part, tuple(patches[key].values())) for key, part in batch])

        for same in due.values():
            start = time.perf_counter()
            for batch, painted in size.run(same, work):
                for (key, part), patch in zip(batch, painted, strict=True):
                    patches[key][part] = patch, boxes[key][part]
                    seconds[key] += (time.perf_counter() - start) / len(batch)
                touched = dict.fromkeys(key for key, _ in batch)
                done = [key for key in touched if len(patches[key]) == len(boxes[key])]
                yield {key: (list(patches.pop(key).values()), seconds[key]) for key in done}
                start = time.perf_counter()


def rounds(boxes: Sequence[Box]) -> list[list[int]]:
    """Numbers of boxes in the order in which they are painted, those of one round at the same time.

    Boxes that overlap are painted one after the other, so that each sees what was painted before.
    """
    number_of: list[int] = []
    for index, box in enumerate(boxes):
        before = [number_of[i] for i in range(index) if _overlap(boxes[i], box)]
        number_of.append(max(before, default=-1) + 1)
    return [[i for i, n in enumerate(number_of) if n == number] for number in range(max(number_of) + 1)]


def _overlap(first: Box, second: Box) -> bool:
    return all(
        max(a, b) < min(c, d)
        for a, b, c, d in zip(first.start, second.start, first.end, second.end, strict=True)
    )
