"""Settings that are checked once, where a command starts: kinds of values, and errors in one line.

The kinds are types for the fields of a `Settings`. Each says in words what it allows, and a user reads
`key=value must be <that>`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from LeFusion.errors import UserError

LARGEST = 2**63 - 1
SHOWN = 80  # characters of a wrong value
LONGEST = 10_000  # bits
T = TypeVar("T", bound="Settings")


class Settings(BaseModel):
    """Immutable; no value is converted to another type, and unknown keys are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def of(cls: type[T], values: Mapping[str, Any], group: str = "") -> T:
        """From plain values, as YAML gives them. group: the key that these are below, for messages.

        Raises UserError: one line that names each wrong key, its value and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            found = [_problem(cls, values, problem, group) for problem in error.errors(include_url=False)]
            raise UserError("; ".join(dict.fromkeys(found))) from None


def _problem(model: type[Settings], values: Mapping[str, Any], problem: Mapping, group: str) -> str:
    mistake = problem.get("ctx", {}).get("error")
    if isinstance(mistake, UserError):
        return str(mistake)
    key, field, value = group, None, values
    for name in problem["loc"]:  # below a field it goes on with pydantic's own names, and items of lists
        if not (isinstance(value, Mapping) and model):
            break
        key, field = f"{key}.{text(name)}" if key else text(name), model.model_fields.get(name)
        if field is None:
            return f"{key}: there is no such key; --help lists all"
        if name not in value:
            return f"give a value for {key}"
        value, inner = value[name], field.annotation
        model = inner if isinstance(inner, type) and issubclass(inner, Settings) else None
    allowed = (field and field.description) or "a group of keys"
    return f"{key}={text(value)} must be {allowed}"


def text(value: Any) -> str:
    """A value as it is written on a command line, cut where it is long."""
    if value is None or isinstance(value, bool):
        shown = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, list | tuple):
        shown = f"[{', '.join(map(text, value))}]"
    elif isinstance(value, Mapping):
        shown = f"{{{', '.join(f'{text(key)}: {text(item)}' for key, item in value.items())}}}"
    elif isinstance(value, int) and value.bit_length() > LONGEST:
        shown = "a number of thousands of digits"  # which Python refuses to print
    else:
        shown = str(value)
    if not shown.isprintable():
        shown = repr(shown)  # line breaks, and what a terminal cannot show
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."


def kind(annotation: Any, allowed: str, check: Callable[[Any], bool] | None = None) -> Any:
    """A type for fields: `annotation`, of which `check` is true. allowed: in words."""

    def checked(value: Any) -> Any:
        if not check(value):
            raise ValueError
        return value

    checks = [AfterValidator(checked)] if check else []
    return Annotated[(annotation, *checks, Field(description=allowed))]


def either(*kinds: Any, words: tuple[str | None, ...] = ()) -> Any:
    """One of these kinds, or one of these words (None: null)."""
    named = ["null" if word is None else word for word in words]
    allowed = [*named, *(kind.__metadata__[-1].description for kind in kinds)]
    union = Literal[words] if words else kinds[0]
    for one in kinds:
        union = union | one
    return kind(union, " or ".join([", ".join(allowed[:-1]), allowed[-1]] if allowed[1:] else allowed))


def whole(least: int, most: int | None = None) -> Any:
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    largest = LARGEST if most is None else most
    return kind(int, f"a whole number {limits}", lambda value: least <= value <= largest)


def choice(*words: str) -> Any:
    return kind(Literal[words], f"one of {', '.join(words)}")


def number(allowed: str, check: Callable[[float], bool] = lambda value: True) -> Any:
    """A finite number, that stays an int where it is one."""
    return kind(int | float, allowed, lambda value: _finite(value) and check(value))


def _finite(value: float) -> bool:
    return abs(value) < 1e300  # false for NaN, too


def numbers(
    count: int | None, allowed: str, check: Callable[[list], bool] = lambda values: True, whole: bool = False
) -> Any:
    """A list of `count` finite numbers (None: of any length)."""

    def right(values: list) -> bool:
        return count in (None, len(values)) and all(map(_finite, values)) and check(values)

    return kind(list[int] if whole else list[int | float], allowed, right)


Flag = kind(bool, "true or false")
Text = kind(str, "a text, in quotes where it is a number", bool)
PATH = "a path (./5 where it is a number)"
Path = kind(str, PATH, lambda path: bool(path) and "\0" not in path)
NoPath = either(kind(str, PATH, lambda path: "\0" not in path), words=(None,))  # null, or empty, for none
Count = whole(1)
Seed = whole(0, LARGEST)
TrainingSeed = whole(0, 2**32 - 1)  # NumPy takes no larger one
NotNegative = number("a number of at least 0", lambda value: value >= 0)
Share = number("a number from 0 to 1", lambda value: 0 <= value <= 1)
