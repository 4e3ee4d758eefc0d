"""Reading and writing network weights. Nothing is loaded that can run code.

Two formats are read: the released files (a dict of `step`, `model`, `ema`, `scaler`, saved by torch) and our
own (safetensors, with the network's sizes and whatever the training recorded as JSON in the header).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.diffusion.schedule import NoiseSchedule
from LeFusion.diffusion.unet import UNet3D
from LeFusion.errors import MissingFileError, UserError, why_not_loaded

METADATA_KEY = "lefusion"
SCHEDULE_BUFFER_PREFIXES = ("betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_")


@dataclass(frozen=True)
class Checkpoint:
    """A network and what its file says of it.

    network: a UNet3D in eval mode, float32, on the CPU. metadata: at least `format` (released or lefusion),
    `network` (the arguments of UNet3D), `schedule` ({kind, num_steps}), `step` and `weights` (ema or model).
    """

    network: UNet3D
    metadata: dict[str, Any]


def load_checkpoint(path: str | Path, weights: str = "ema") -> Checkpoint:
    """Builds the network that the file describes and loads its weights, strictly.

    Args:
        path: a released .pt file or one of our .safetensors files.
        weights: "ema" for the moving average (what inference should use) or "model" for the raw weights.

    Returns:
        The network, on the CPU, and what the file says of its training.

    Raises:
        MissingFileError: no such file.
        UserError: not a checkpoint, damaged, of an unknown schedule, context or prediction, or without the
            weights asked for.
    """
    path = Path(path)
    if weights not in ("ema", "model"):
        raise UserError(f"weights={weights!r} must be 'ema' or 'model'")
    if not path.is_file():
        raise MissingFileError(f"checkpoint {path} does not exist; give the path of weights")
    read = _read_own if path.suffix == ".safetensors" else _read_released
    config, state, metadata = read(path, weights)
    try:
        NoiseSchedule.of(metadata.get("schedule"))
        Denoiser.of(metadata)
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}; was it written by a newer version?") from None
    try:
        network = UNet3D(**config)
        network.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"checkpoint {path}: its {weights} weights do not fit a LeFusion network: {reason}"
        ) from None
    return Checkpoint(network.eval(), metadata | {"network": network.config, "weights": weights})


def start_from(network: UNet3D, path: str | Path) -> None:
    """Loads the moving average of a checkpoint of a network of the same sizes; ValueError for another."""
    checkpoint = load_checkpoint(path)
    theirs, ours = checkpoint.network.config, network.config
    if theirs != ours:
        other = ", ".join(
            f"{key} {theirs[key]} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]
        )
        raise UserError(f"init_weights {path} is another network: {other}")
    network.load_state_dict(checkpoint.network.state_dict())


def save_checkpoint(
    path: str | Path, metadata: dict[str, Any], dtype: torch.dtype = torch.float32, **networks: UNet3D
) -> None:
    """Writes networks by name (`ema=...`, `model=...`, of one size) with JSON metadata.

    The caller replaces an older file in one move (write to a temporary path, then rename).
    """
    from safetensors.torch import save_file  # here, so that the core imports without it

    configs = [network.config for network in networks.values()]
    assert configs and all(config == configs[0] for config in configs)
    tensors = {
        f"{name}.{key}": value.detach().to("cpu", dtype).contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    header = {"format": "lefusion", "network": configs[0], **metadata}
    save_file(tensors, str(path), metadata={METADATA_KEY: json.dumps(header)})


def _read_own(path: Path, weights: str) -> tuple[dict, dict[str, Tensor], dict]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[METADATA_KEY])
            names = [name for name in file.keys() if name.startswith(f"{weights}.")]  # noqa: SIM118
            state = {name.removeprefix(f"{weights}."): file.get_tensor(name) for name in names}
            available = sorted({name.split(".")[0] for name in file.keys()})  # noqa: SIM118
        config = header["network"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"checkpoint {path} is damaged or was not written by LeFusion ({error!r})") from None
    if not state:
        raise UserError(f"checkpoint {path} holds no {weights!r} weights, only {', '.join(available)}")
    return config, state, header


def _read_released(path: Path, weights: str) -> tuple[dict, dict[str, Tensor], dict]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or foreign files
        raise UserError(
            f"checkpoint {path} is damaged or not a weights file: {why_not_loaded(error)}"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get(weights), dict):
        found = sorted(map(str, content))[:6] if isinstance(content, dict) else type(content).__name__
        raise UserError(f"checkpoint {path} holds no {weights!r} weights; found {found}")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content[weights].items()):
        raise UserError(f"checkpoint {path}: its {weights!r} entry is not a state dict")
    plain = {_plain_name(name): value for name, value in content[weights].items()}
    betas = plain.get("betas")
    state = {}
    for name, value in plain.items():
        if not name.startswith(SCHEDULE_BUFFER_PREFIXES):
            ours, tensor = _translate(name, value)
            if ours in state and not torch.equal(state[ours], tensor):
                raise UserError(f"checkpoint {path}: layers disagree about {ours}, which LeFusion shares")
            state[ours] = tensor
    try:
        config = _config_from(state)
    except KeyError as error:
        raise UserError(
            f"checkpoint {path} is not a LeFusion or DiffMask network: {error} is missing"
        ) from None
    except (IndexError, ValueError, ZeroDivisionError):
        raise UserError(f"checkpoint {path} is not a LeFusion or DiffMask network: odd sizes") from None
    schedule = _identify_schedule(path, betas)
    return config, state, {"format": "released", "step": int(content.get("step", 0)), "schedule": schedule}


def _plain_name(name: str) -> str:
    """Without the wrappers' prefixes (the diffusion object's, DataParallel's)."""
    for _ in range(4):
        name = name.removeprefix("module.").removeprefix("denoise_fn.")
    return name


def _translate(name: str, value: Tensor) -> tuple[str, Tensor]:
    """A released parameter's name and shape -> ours."""
    if name.endswith("rotary_emb.freqs"):
        return "rotary_frequencies", value  # one for the whole network here
    name = name.replace(".fn.fn.fn.", ".").replace(".fn.fn.", ".").replace(".fn.norm.", ".norm.")
    if name.endswith(".gamma"):
        return name, value.flatten()
    if value.ndim == 5:
        value = value.squeeze(2)  # (O, I, 1, k, k): all kernels are planar
    if value.ndim == 4 and value.shape[-2:] == (1, 1):
        value = value.flatten(1)  # a 1 x 1 convolution is a linear map here
    return name, value


def _config_from(state: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of UNet3D, read off the shapes of its parameters."""
    dim, in_channels = state["init_conv.weight"].shape[:2]
    heads = state["time_rel_pos_bias.relative_attention_bias.weight"].shape[1]
    mults = []
    while f"downs.{len(mults)}.0.block1.proj.weight" in state:
        mults.append(state[f"downs.{len(mults)}.0.block1.proj.weight"].shape[0] // dim)
    return {
        "dim": dim,
        "in_channels": in_channels,
        "out_channels": state["final_conv.1.weight"].shape[0],
        "cond_dim": state["null_cond_emb"].shape[1] if "null_cond_emb" in state else None,
        "dim_mults": mults,
        "attn_heads": heads,
        "attn_dim_head": state["init_temporal_attn.to_qkv.weight"].shape[0] // (3 * heads),
    }


def _identify_schedule(path: Path, betas: Tensor | None) -> dict[str, Any]:
    if betas is None:
        raise UserError(f"checkpoint {path} does not hold its noise schedule (betas)")
    if not torch.allclose(betas.float(), NoiseSchedule.cosine(len(betas)).betas, rtol=1e-4):
        raise UserError(f"checkpoint {path} was trained with a noise schedule other than the cosine one")
    return {"kind": "cosine", "num_steps": len(betas)}
