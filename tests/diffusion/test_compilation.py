"""A compiled network computes the same under the same names; what does not compile runs eagerly."""

import warnings

import pytest
import torch

from LeFusion.diffusion import UNet3D
from LeFusion.diffusion.compilation import compile_network

X, T, COND = torch.randn(1, 1, 2, 4, 4), torch.tensor([7]), torch.rand(1, 16)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet3D(8, 1, None, 16, (1,), attn_heads=2, attn_dim_head=8).eval()


def backend(monkeypatch, name):
    """Compiles with this backend of torch.compile; the usual one takes minutes on a CPU."""
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **_: original(call, backend=name, dynamic=False))
    torch._dynamo.reset()


@pytest.mark.parametrize("grad", [False, True])
def test_the_traced_network_is_the_same_function(network, monkeypatch, grad):
    names = list(network.state_dict())
    with torch.set_grad_enabled(grad):
        expected = network(X, T, COND)
        graphs = []

        def keeping(graph, inputs):
            graphs.append(graph)
            return graph

        backend(monkeypatch, keeping)
        compile_network(network, cuda_graphs=True)
        output = network(X, T, COND)
        assert torch.allclose(output, expected, atol=1e-5, rtol=1e-4)
        assert len(graphs) == 1  # in one piece, without breaks
        network(X, T, COND)
        assert len(graphs) == 1  # once for a shape
    assert not any(
        "complex" in str(node.target) or "polar" in str(node.target) for node in graphs[0].graph.nodes
    )
    assert list(network.state_dict()) == names


def test_what_does_not_compile_runs_eagerly_after_one_warning(network, monkeypatch):
    expected = network(X, T, COND)

    def failing(graph, inputs):
        raise RuntimeError("no C++ compiler found")

    backend(monkeypatch, failing)
    compile_network(network)
    with pytest.warns(UserWarning, match="could not be compiled.*") as caught:
        assert torch.equal(network(X, T, COND), expected)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(network(X, T, COND), expected)


def test_running_out_of_memory_is_no_failure_to_compile(network, monkeypatch):
    backend(monkeypatch, "eager")
    compile_network(network)
    monkeypatch.setattr(UNet3D, "_check", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        network(X, T, COND)
