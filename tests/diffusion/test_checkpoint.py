"""Checkpoints: ours and the released format, and one line for whatever else is handed in."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from LeFusion.diffusion import NoiseSchedule, UNet3D, load_checkpoint, save_checkpoint
from LeFusion.errors import UserError

SIZES = {
    "dim": 8,
    "in_channels": 2,
    "cond_dim": 32,
    "dim_mults": (1, 2, 4),
    "attn_heads": 2,
    "attn_dim_head": 8,
}
METADATA = {"step": 7, "schedule": {"kind": "cosine", "num_steps": 300}, "data_type": "lidc"}


def make(seed: int, **sizes) -> UNet3D:
    torch.manual_seed(seed)
    return UNet3D(**(SIZES | sizes))


@pytest.fixture(scope="module")
def ema() -> UNet3D:
    return make(1)


@pytest.fixture(scope="module")
def model() -> UNet3D:
    return make(2)


def assert_same_weights(network: UNet3D, expected: UNet3D, **tolerance) -> None:
    ours, theirs = network.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys() and network.config == expected.config
    for name, value in theirs.items():
        assert ours[name].dtype == torch.float32
        if tolerance:
            torch.testing.assert_close(ours[name], value, **tolerance)
        else:
            assert torch.equal(ours[name], value), name


# --- our own format


@pytest.mark.parametrize("sizes", [{}, {"out_channels": 1, "cond_dim": None}], ids=["lesion", "mask"])
def test_own_format_comes_back_exactly(tmp_path, sizes):
    path, ema, model = tmp_path / "model.safetensors", make(1, **sizes), make(2, **sizes)
    save_checkpoint(path, METADATA, ema=ema, model=model)
    for weights, network in (("ema", ema), ("model", model)):
        loaded = load_checkpoint(str(path), weights)
        assert_same_weights(loaded.network, network)
        assert not loaded.network.training
        expected = {"format": "lefusion", "network": network.config, "weights": weights}
        assert loaded.metadata == METADATA | expected
    assert_same_weights(load_checkpoint(path).network, ema)  # the moving average is the default


@pytest.mark.parametrize("dtype, relative", [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_is_close_and_half_the_size(tmp_path, ema, dtype, relative):
    save_checkpoint(tmp_path / "whole.safetensors", METADATA, ema=ema)
    save_checkpoint(tmp_path / "half.safetensors", METADATA, dtype, ema=ema)
    assert_same_weights(load_checkpoint(tmp_path / "half.safetensors").network, ema, rtol=relative, atol=1e-6)
    whole, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole


def test_own_format_without_the_weights_asked_for(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, METADATA, model=model)
    with pytest.raises(ValueError, match=r"model.safetensors holds no 'ema' weights, only model"):
        load_checkpoint(path)


def rewrite(path, network, change_tensors=None, change_header=None):
    """One of our files, changed."""
    state = network.state_dict().items()
    tensors = {f"ema.{name}": value.clone(memory_format=torch.contiguous_format) for name, value in state}
    header = {"format": "lefusion", "network": dict(network.config), **METADATA}
    if change_tensors:
        change_tensors(tensors)
    if change_header:
        change_header(header)
    save_file(tensors, str(path), metadata={"lefusion": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    "change_tensors, change_header",
    [
        (lambda tensors: tensors.pop("ema.init_conv.bias"), None),
        (lambda tensors: tensors.update({"ema.more": torch.zeros(1)}), None),
        (None, lambda header: header["network"].update(dim=16)),
        (None, lambda header: header["network"].update(dim=12)),
        (None, lambda header: header["network"].update(dim_mults=[1, 2])),
        (None, lambda header: header["network"].update(colour="red")),
    ],
    ids=["a key less", "a key more", "other dim", "odd dim", "fewer levels", "unknown size"],
)
def test_own_format_that_does_not_fit(tmp_path, ema, change_tensors, change_header):
    path = rewrite(tmp_path / "odd.safetensors", ema, change_tensors, change_header)
    with pytest.raises(ValueError, match=r"odd.safetensors: its ema weights do not fit a LeFusion network"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"schedule": {"kind": "linear", "num_steps": 300}}, "its noise schedule is {'kind': 'linear'"),
        ({"schedule": {"kind": "cosine", "num_steps": True}}, "its noise schedule is"),
        ({"schedule": {"kind": "cosine", "num_steps": 10**9}}, "its noise schedule is"),
        ({"schedule": {"kind": ["cosine"], "num_steps": 300}}, "its noise schedule is"),
        ({"schedule": None}, "its noise schedule is None"),
        ({"schedule": "cosine"}, "its noise schedule is 'cosine'"),
        ({"prediction": "x0"}, "prediction='x0' must be one of noise, velocity"),
        ({"prediction": ["noise"]}, "prediction="),
        ({"context": "none"}, "context='none' must be one of noised, clean"),
    ],
)
def test_metadata_that_mean_nothing_here_are_refused(tmp_path, ema, change, said):
    path = rewrite(tmp_path / "new.safetensors", ema, None, lambda header: header.update(change))
    with pytest.raises(UserError) as refused:
        load_checkpoint(path)
    line = str(refused.value)
    assert line.startswith(f"checkpoint {path}: {said}") and "\n" not in line and len(line) < 500


def test_safetensors_of_others(tmp_path):
    for number, metadata in enumerate((None, {"format": "pt"}, {"lefusion": "{"}, {"lefusion": "[1]"})):
        path = tmp_path / f"other{number}.safetensors"
        save_file({"ema.weight": torch.zeros(2)}, str(path), metadata=metadata)
        with pytest.raises(ValueError, match=rf"other{number}.safetensors is damaged or was not written by"):
            load_checkpoint(path)


# --- the released format


def as_released(network: UNet3D, prefix: str, betas=None) -> dict[str, torch.Tensor]:
    """The network's state dict with the names and shapes of the released files: the inverse of the reader."""
    state = {}
    for name, value in network.state_dict().items():
        folder, _, leaf = name.rpartition(".")
        if name == "rotary_frequencies":
            depth_attentions = ["init_temporal_attn", "mid_temporal_attn"]
            depth_attentions += [f"{s}.{i}.3" for s in ("downs", "ups") for i in range(3)]
            state |= {f"{prefix}{a}.fn.fn.fn.rotary_emb.freqs": value for a in depth_attentions}
            continue
        linear_attention = ".2." in name and name.startswith(("downs", "ups"))
        attention = "to_qkv" in name or "to_out" in name
        if attention:
            head, _, layer = folder.rpartition(".")
            name = f"{head}.{'fn.fn' if linear_attention else 'fn.fn.fn'}.{layer}.{leaf}"
            if linear_attention and value.ndim == 2:
                value = value[:, :, None, None]
        elif leaf == "gamma":
            name, value = name.replace(".norm.", ".fn.norm."), value.reshape(1, -1, 1, 1, 1)
        elif value.ndim == 4:
            value = value.unsqueeze(2)  # (O, I, k, k) -> (O, I, 1, k, k)
        elif value.ndim == 2 and ("res_conv" in name or name == "final_conv.1.weight"):
            value = value[:, :, None, None, None]
        state[prefix + name] = value.clone()
    betas = NoiseSchedule.cosine(300).betas if betas is None else betas
    buffers = ("alphas_cumprod", "alphas_cumprod_prev", "sqrt_recip_alphas_cumprod", "posterior_variance")
    buffers += ("log_one_minus_alphas_cumprod", "posterior_mean_coef1", "posterior_log_variance_clipped")
    return {"betas": betas} | {name: torch.rand(len(betas)) for name in buffers} | state


def save_released(path, ema, model=None, prefix="denoise_fn.module.", change=None, betas=None):
    content = {"step": 50_000, "scaler": {}, "ema": as_released(ema, prefix, betas)}
    content["model"] = as_released(model or ema, prefix, betas)
    if change:
        change(content)
    torch.save(content, path)
    return path


PREFIXES = ["denoise_fn.module.", "denoise_fn.", "module.denoise_fn.", "module.denoise_fn.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_released_format_comes_back_exactly(tmp_path, ema, model, prefix):
    path = save_released(tmp_path / "released.pt", ema, model, prefix)
    for weights, network in (("ema", ema), ("model", model)):
        loaded = load_checkpoint(path, weights)
        assert_same_weights(loaded.network, network)
        assert loaded.network.config == network.config and not loaded.network.training
        assert loaded.metadata["step"] == 50_000 and loaded.metadata["format"] == "released"
        assert loaded.metadata["schedule"] == {"kind": "cosine", "num_steps": 300}
        assert loaded.metadata["weights"] == weights


def test_released_format_under_a_data_parallel_diffusion(tmp_path, ema):
    """Where the whole diffusion object was wrapped, its buffers have the prefix too."""
    path = save_released(
        tmp_path / "released.pt",
        ema,
        prefix="denoise_fn.",
        change=lambda c: c.update(ema={f"module.{name}": value for name, value in c["ema"].items()}),
    )
    assert_same_weights(load_checkpoint(path).network, ema)


@pytest.mark.parametrize(
    "sizes",
    [{"in_channels": 1, "cond_dim": 16}, {"out_channels": 1, "cond_dim": None}, {"attn_heads": 3, "dim": 16}],
    ids=["lidc", "diffmask", "other attention"],
)
def test_released_format_tells_its_sizes(tmp_path, sizes):
    network = make(3, **sizes)
    assert_same_weights(load_checkpoint(save_released(tmp_path / "released.pt", network)).network, network)


def test_released_format_of_another_length(tmp_path, ema):
    path = save_released(tmp_path / "released.pt", ema, betas=NoiseSchedule.cosine(100).betas)
    assert load_checkpoint(path).metadata["schedule"] == {"kind": "cosine", "num_steps": 100}


def without(*names):
    """-> a change that drops all keys with any of the names."""

    def change(content):
        content["ema"] = {k: v for k, v in content["ema"].items() if not any(name in k for name in names)}

    return change


def another_frequency(content):
    content["ema"]["denoise_fn.module.downs.1.3.fn.fn.fn.rotary_emb.freqs"] = torch.ones(4)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("ema"), r"holds no 'ema' weights; found \['model', 'scaler', 'step'\]"),
        (lambda c: c.update(ema=None), "holds no 'ema' weights"),
        (lambda c: c.update(ema={}), "not a LeFusion or DiffMask network"),
        (without("init_conv"), "not a LeFusion or DiffMask network: .*init_conv.weight.* is missing"),
        (without("mid_block1.block1"), "its ema weights do not fit a LeFusion network: .*mid_block1.block1"),
        (without("downs.1.", "ups.1."), "its ema weights do not fit a LeFusion network"),
        (lambda c: c["ema"].update({"denoise_fn.more": torch.zeros(3)}), "do not fit .*more"),
        (without("betas"), "does not hold its noise schedule"),
        (another_frequency, "layers disagree about rotary_frequencies"),
    ],
    ids=["no ema", "ema None", "empty", "no first layer", "gap", "fewer levels", "more", "no betas", "freqs"],
)
def test_released_format_that_does_not_fit(tmp_path, ema, change, message):
    path = save_released(tmp_path / "odd.pt", ema, change=change)
    with pytest.raises(ValueError, match=f"odd.pt.*{message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "betas", [torch.linspace(1e-4, 0.02, 300), NoiseSchedule.cosine(300, max_beta=0.999).betas]
)
def test_released_format_with_another_schedule(tmp_path, ema, betas):
    path = save_released(tmp_path / "linear.pt", ema, betas=betas)
    with pytest.raises(ValueError, match="linear.pt was trained with a noise schedule other than the cosine"):
        load_checkpoint(path)


# --- anything else


def test_no_such_file(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path.name} does not exist"):
            load_checkpoint(path)


def test_no_such_weights(tmp_path):
    with pytest.raises(ValueError, match="weights='average' must be 'ema' or 'model'"):
        load_checkpoint(tmp_path / "none.pt", "average")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99], ids=["empty", "10 bytes", "half", "almost all"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files(tmp_path, ema, suffix, kept):
    path = tmp_path / f"cut.{suffix}"
    if suffix == "pt":
        save_released(path, ema)
    else:
        save_checkpoint(path, METADATA, ema=ema)
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept >= 1 else int(kept * len(content))])
    with pytest.raises(ValueError, match=rf"cut.{suffix} is damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_random_bytes(tmp_path, suffix):
    path = tmp_path / f"noise.{suffix}"
    path.write_bytes(bytes(torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0)).tolist()))
    with pytest.raises(ValueError, match=f"noise.{suffix} is damaged"):
        load_checkpoint(path)


class Trap:
    """Pickled, it asks the reader to create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_a_pickle_that_would_run_code_does_not(tmp_path, write):
    path, sprung = tmp_path / "trap.pt", tmp_path / "sprung"
    if write == "pickle":
        path.write_bytes(pickle.dumps({"ema": Trap(sprung)}, protocol=2))
    else:
        torch.save({"step": 1, "ema": Trap(sprung)}, path)
    with pytest.raises(ValueError, match="trap.pt is damaged or not a weights file: .* more than") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)  # torch advises to switch it off
    assert not sprung.exists()


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"state_dict": {}}, {"ema": torch.zeros(2)}])
def test_other_torch_files(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="other.pt holds no 'ema' weights; found"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize(
    "state, message",
    [
        ({"a": 1}, "its 'ema' entry is not a state dict"),
        ({3: torch.zeros(2)}, "its 'ema' entry is not a state dict"),
        (
            {"conv.weight": torch.zeros(2)},
            "not a LeFusion or DiffMask network: 'init_conv.weight' is missing",
        ),
        ({"init_conv.weight": torch.zeros(2)}, "not a LeFusion or DiffMask network: odd sizes"),
    ],
)
def test_other_state_dicts(tmp_path, state, message):
    torch.save({"ema": state}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=rf"other\.pt.*{message}"):
        load_checkpoint(tmp_path / "other.pt")
