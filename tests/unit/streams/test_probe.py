"""Records of a block's run: clones, so that what happens in place afterwards does not reach them; hooks never stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.core.groups import ChannelGroup, Port, Stream, StreamFunction
from optimum_grail.streams.calls import Call
from optimum_grail.streams.probe import Probe, Wanted, features_of, rows_of

EVERYTHING = Wanted(features=True, output=True, stream=True)


class InPlace(nn.Module):
    """Every tensor a hook may see is overwritten later, as ResNets do with their residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.after = nn.Linear(4, 6), nn.Linear(6, 4), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.up(x))
        y = self.down(features)
        features.mul_(-1)
        y += x
        x.zero_()
        z = self.after(y)
        return z.mul_(2)


def group(stream: Stream) -> ChannelGroup:
    port = Port("block.down", "in")
    return ChannelGroup(
        "block.mlp", "mlp", 6, (Port("block.up", "out"),), port, "block", "0", "", 0, stream, "tie", cost=1
    )


def residual(block: nn.Module, hidden: Tensor, records: dict[str, Tensor]) -> Tensor:
    return records["down"] + hidden


@torch.no_grad()
@pytest.mark.parametrize(
    "stream",
    ["after", "after:output", StreamFunction(residual, ("down",)), None],
    ids=["input", "output", "function", "none"],
)
def test_records_survive_what_happens_in_place(stream: Stream) -> None:
    block, x = InPlace(), torch.randn(2, 3, 4)
    original = x.clone()
    probe = Probe(block, "block", [group(stream)], EVERYTHING)
    output = probe.run(Call((), {}), x)
    record = probe.records["block.mlp"]
    features = torch.relu(block.up(original))
    assert torch.equal(x, original), "the stream itself stays"
    torch.testing.assert_close(record.features, features)
    torch.testing.assert_close(record.output, block.down(features))
    torch.testing.assert_close(output, 2 * (block.down(features) + original))
    if stream is None:
        assert record.stream is None
    else:
        torch.testing.assert_close(record.stream, block.down(features) + original)


@torch.no_grad()
@pytest.mark.parametrize("stream", ["after", "@block", None])
def test_a_run_stops_as_soon_as_everything_is_seen(stream: Stream) -> None:
    block = InPlace()
    probe = Probe(block, "block", [group(stream)], EVERYTHING, stop_early=True)
    output = probe.run(Call((), {}), torch.randn(1, 2, 4))
    assert (output is None) == (stream != "@block")
    record = probe.records["block.mlp"]
    assert record.features is not None and (record.stream is not None) == (stream is not None)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())


def test_hooks_go_when_the_block_fails() -> None:
    block = InPlace()
    probe = Probe(block, "block", [group("after")], EVERYTHING)
    with pytest.raises(RuntimeError):
        probe.run(Call((), {}), torch.randn(1, 2, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())


def test_the_hidden_state_may_come_by_name() -> None:
    class Named(nn.Module):
        def forward(self, *, scale: float, hidden_states: Tensor) -> tuple[Tensor, None]:
            return scale * hidden_states, None

    assert torch.equal(Call((), {"scale": 3.0}, "hidden_states").run(Named(), torch.ones(2)), 3 * torch.ones(2))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 1, 1, 1), (3, 2, 1, 1), (1, 2, 0, 1), (3, 1, 2, 2)]
)
def test_patches_times_the_weight_are_the_convolution(kernel: int, stride: int, padding: int, dilation: int) -> None:
    conv = nn.Conv2d(3, 5, kernel, stride, padding, dilation, bias=False)
    x = torch.randn(2, 3, 8, 6)
    rows = features_of(x, conv, "patch")
    torch.testing.assert_close(rows @ conv.weight.flatten(1).T, rows_of(conv(x)))
    assert features_of(x, conv, "shared").shape == (2, 48, 3)


def test_vectors_and_tokens_are_rows() -> None:
    assert rows_of(torch.ones(2, 7)).shape == (2, 1, 7)
    assert rows_of(torch.ones(2, 5, 7)).shape == (2, 5, 7)
    assert features_of(torch.ones(2, 5, 7), nn.Linear(7, 1), "patch").shape == (2, 5, 7)
