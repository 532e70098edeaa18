"""What a consumer should output beyond what it does output, checked by letting it output just that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures._tiny import one_per_kind
from optimum_grail.architectures.clip import tiny_clip
from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.architectures.resnet import tiny_basic
from optimum_grail.core.groups import ChannelGroup
from optimum_grail.core.moments import Moments, Statistics
from optimum_grail.core.spec import ArchitectureSpec, Mlp
from optimum_grail.data.batches import Batch
from optimum_grail.errors import StatisticsError
from optimum_grail.models.matrix import feature_axis
from optimum_grail.models.resolve import resolve
from optimum_grail.processes.ranks import ALONE
from optimum_grail.streams.calls import Call
from optimum_grail.streams.capture import capture
from optimum_grail.streams.collect import Collector, drift_of
from optimum_grail.streams.probe import Probe, Record, Wanted, rows_of
from optimum_grail.streams.problems import collector_for, norm_of, problem_of, scale_behind

EXAMPLES: dict[str, Callable[[], nn.Module]] = {
    **{spec.model_types[0]: spec.example for spec in one_per_kind(ARCHITECTURES.specs()) if spec.example},
    "clip": tiny_clip,
    "resnet-basic": tiny_basic,
}
EVERYTHING = Wanted(features=True, output=True, stream=True)


def batch_of(model: nn.Module) -> Batch:
    families = {getattr(module.config, "model_type", "") for module in model.modules() if hasattr(module, "config")}
    made = [spec.inputs for spec in ARCHITECTURES.specs() if spec.inputs and families & set(spec.model_types)]
    if made:
        return Batch(dict(made[0]()), "fit")
    draw = torch.Generator().manual_seed(1)
    config = model.config
    vision = getattr(config, "vision_config", config)
    inputs: dict[str, Tensor] = {}
    if hasattr(getattr(config, "text_config", config), "vocab_size") and model.main_input_name != "pixel_values":
        inputs["input_ids"] = torch.randint(3, 90, (3, 7), generator=draw)
        inputs["attention_mask"] = torch.ones(3, 7, dtype=torch.int64)
        if getattr(config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = torch.randint(3, 90, (3, 5), generator=draw)
    if hasattr(vision, "num_channels"):
        size = getattr(vision, "image_size", 32)
        inputs["pixel_values"] = torch.randn(3, 3, size, size, generator=draw)
    return Batch(inputs, "fit")


@torch.no_grad()
def both_streams(model: nn.Module) -> Iterator[tuple[str, list[ChannelGroup], Call, Tensor, Tensor]]:
    """Every block with its groups, its call, its dense input, and the input of a student that has drifted."""
    layout, draw = resolve(model), torch.Generator().manual_seed(2)
    captured = capture(model, {stack.name: stack.blocks for stack in layout.stacks}, [batch_of(model)])
    for stack in layout.stacks:
        hidden = captured[stack.name].hidden[0]
        for path in stack.blocks:
            call = captured[stack.name].calls[path][0]
            student = hidden + 0.1 * torch.randn(hidden.shape, generator=draw)
            yield path, list(layout.of_block(path)), call, hidden, student
            hidden = call.run(model.get_submodule(path), hidden.clone())


def like(drift: Tensor, output: Tensor, consumer: nn.Module) -> Tensor:
    """Rows ``[B, R, O]`` in the shape of a consumer's output."""
    return (drift.transpose(1, 2) if isinstance(consumer, nn.Conv2d) else drift).reshape(output.shape)


@contextmanager
def nudged(consumer: nn.Module, drift: Tensor) -> Iterator[None]:
    """Add ``drift`` to what the consumer puts out."""
    handle = consumer.register_forward_hook(lambda module, args, output: output + like(drift, output, module))
    yield
    handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_drift_carries_the_student_to_the_dense_stream(name: str) -> None:
    model = EXAMPLES[name]()
    seen = 0
    for path, groups, call, hidden, student in both_streams(model):
        probe = Probe(model.get_submodule(path), path, groups, EVERYTHING)
        probe.run(call, hidden)
        dense = probe.records
        probe.run(call, student)
        ours = probe.records
        for group in groups:
            record, target = ours[group.name], dense[group.name]
            consumer = model.get_submodule(group.consumer.module)
            drift = drift_of(target, record, scale_behind(model, group), feature_axis(consumer))
            assert drift is not None and drift.abs().max() > 1e-3
            with nudged(consumer, drift):
                probe.run(call, student)
            if group.stream is None:
                torch.testing.assert_close(
                    record.output + like(drift, record.output, consumer), target.output, rtol=1e-4, atol=1e-4
                )
                continue
            torch.testing.assert_close(probe.records[group.name].stream, target.stream, rtol=1e-4, atol=1e-4)
            seen += 1
    streams = {group.stream for group in resolve(model).groups}
    assert seen > 0 or streams == {None}, "norms stand behind the consumers"


@torch.no_grad()
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_dense_target_is_the_dense_output(name: str) -> None:
    model = EXAMPLES[name]()
    for path, groups, call, hidden, student in both_streams(model):
        records = []
        for state in (hidden, student):
            probe = Probe(model.get_submodule(path), path, groups, Wanted(features=True, output=True))
            probe.run(call, state)
            records.append(probe.records)
        for group in groups:
            dense, ours = records[0][group.name], records[1][group.name]
            assert ours.stream is None
            consumer = model.get_submodule(group.consumer.module)
            drift = drift_of(dense, ours, scale_behind(model, group), feature_axis(consumer))
            assert drift is not None
            found = ours.output + like(drift, ours.output, consumer)
            torch.testing.assert_close(found, dense.output, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", EXAMPLES)
def test_statistics_are_sums_over_the_rows_of_the_consumer(name: str) -> None:
    """The 2-D weight times the features is the consumer's output, its bias left out; patches of convolutions too."""
    model = EXAMPLES[name]()
    for path, groups, call, hidden, student in both_streams(model):
        probe = Probe(model.get_submodule(path), path, groups, EVERYTHING)
        probe.run(call, hidden)
        dense = probe.records
        probe.run(call, student)
        for group in groups:
            collector = collector_for(model, group, held_out=False, ranks=ALONE)
            record = probe.records[group.name]
            collector.add(record, dense[group.name], None, 0)
            problem = problem_of(model, group, collector.statistics(), 0)
            consumer = model.get_submodule(group.consumer.module)
            output = rows_of(record.output, feature_axis(consumer))
            rows = output.flatten(0, 1).double()
            bias = consumer.bias
            rows = rows if bias is None else rows - bias
            moments = problem.measured.moments
            assert moments.count == len(rows)
            torch.testing.assert_close(problem.weight @ moments.total, rows.sum(0), rtol=1e-4, atol=1e-2)
            second = problem.weight @ moments.gram @ problem.weight.T
            torch.testing.assert_close(second, rows.T @ rows, rtol=1e-3, atol=1e-2)
            target = problem.measured.target
            drift = drift_of(dense[group.name], record, scale_behind(model, group), feature_axis(consumer))
            assert target is not None and drift is not None
            crossed = target.cross @ problem.weight.T
            gaps = drift.flatten(0, 1).double()
            torch.testing.assert_close(crossed, gaps.T @ rows, rtol=1e-3, atol=1e-2)
            torch.testing.assert_close(target.total, gaps.sum(0), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_batch_norm_channels_of_tiny_scale_keep_the_self_target() -> None:
    model = tiny_basic()
    group = resolve(model).groups[0]
    norm = norm_of(model, group)
    assert norm is not None
    norm.weight[2] = 1e-9
    for path, groups, call, hidden, student in both_streams(model):
        if path != group.block:
            continue
        probe = Probe(model.get_submodule(path), path, groups, EVERYTHING)
        probe.run(call, hidden)
        dense = probe.records[group.name]
        probe.run(call, student)
        drift = drift_of(dense, probe.records[group.name], scale_behind(model, group))
        assert drift is not None and not drift[..., 2].any()
        assert drift[..., 3].any() and drift.abs().max() < 1e3
        return


class Scaled(nn.Module):
    """A block on ``[B, C, H, W]`` whose linear layers see ``[B, H, W, C]``, with a factor behind the consumer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.scale = nn.Parameter(torch.tensor([-0.5, 0.1, 0.5, 1.0, 1.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.scale * self.down(torch.relu(self.up(x.permute(0, 2, 3, 1))))
        return x + inner.permute(0, 3, 1, 2)


@torch.no_grad()
def test_the_drift_is_divided_by_a_factor_behind_the_consumer() -> None:
    torch.manual_seed(0)
    model, hidden = nn.Sequential(Scaled()), torch.randn(2, 6, 3, 5)
    student = hidden + 0.1 * torch.randn(2, 6, 3, 5)
    spec = ArchitectureSpec((), ("*",), (Mlp(("up",), "down", "@block", factor="scale"),))
    (group,) = resolve(model, spec).groups
    probe = Probe(model[0], "0", [group], EVERYTHING)
    probe.run(Call((), {}), hidden)
    dense = probe.records["0.mlp"]
    probe.run(Call((), {}), student)
    drift = drift_of(dense, probe.records["0.mlp"], scale_behind(model, group), axis=-1)
    assert drift is not None
    with model[0].down.register_forward_hook(lambda module, args, output: output + drift.reshape(output.shape)):
        probe.run(Call((), {}), student)
    assert dense.stream is not None
    torch.testing.assert_close(probe.records["0.mlp"].stream, dense.stream, rtol=1e-4, atol=1e-4)
    sums = collector_for(model, group, held_out=False, ranks=ALONE)
    sums.add(probe.records["0.mlp"], dense, None, 0)
    assert sums.statistics().moments.count == 2 * 3 * 5


def collector(held_out: bool = True) -> Collector:
    model = tiny_llama()
    group = resolve(model).groups[-1]
    return Collector(group, model.get_submodule(group.consumer.module), None, "patch", held_out)


def added(
    features: Tensor, mask: Any, part: int | None, drift: Tensor | None = None, held_out: bool = True
) -> Statistics:
    found = collector(held_out)
    student = Record(features=features, output=torch.zeros(*features.shape[:2], 2))
    dense = None if drift is None else Record(output=drift)
    found.add(student, dense, mask, part)
    return found.statistics()


def test_padding_is_left_out_and_splits_are_kept_apart() -> None:
    features, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = added(features, mask, 0)
    expected = Moments.of(features[mask.bool()])
    (whole,) = found.subsets
    assert whole.moments.count == 8
    torch.testing.assert_close(whole.moments.gram, expected.gram)
    assert added(features, mask, 1, held_out=False).moments.count == 8


@pytest.mark.parametrize("padding", [0, 1, 7])
def test_halves_are_those_of_the_real_rows(padding: int) -> None:
    features, drift = torch.randn(2, 6 + padding, 3), torch.randn(2, 6 + padding, 2)
    mask = torch.zeros(2, 6 + padding)
    mask[0, :6] = mask[1, :3] = 1
    found = added(features, mask, None, drift)
    one, two = found.subsets
    assert one.target is not None and two.target is not None
    first = torch.cat([features[0, :3], features[1, :2]])
    second = torch.cat([features[0, 3:6], features[1, 2:3]])
    torch.testing.assert_close(one.moments.gram, Moments.of(first).gram)
    torch.testing.assert_close(two.moments.gram, Moments.of(second).gram)
    torch.testing.assert_close(two.target.total, torch.cat([drift[0, 3:6], drift[1, 2:3]]).double().sum(0))
    whole = added(features, None, None)
    assert len(whole.subsets) == 2 and whole.moments.count == 2 * (6 + padding)


def test_samples_of_one_row_cannot_be_halved() -> None:
    found = added(torch.randn(3, 1, 4), None, None, torch.randn(3, 1, 2))
    (whole,) = found.subsets
    assert whole.moments.count == 3 and whole.target is not None


def test_unusable_rows_name_the_group() -> None:
    good, bad = torch.ones(1, 2, 3), torch.full((1, 2, 3), float("nan"))
    with pytest.raises(StatisticsError, match=r"model\.layers\.2\.mlp.*no calibration rows"):
        added(good, torch.zeros(1, 2), "fit")
    with pytest.raises(StatisticsError, match=r"model\.layers\.2\.mlp.*not finite"):
        added(bad, None, 0)
    with pytest.raises(StatisticsError, match=r"stream behind group 'model\.layers\.2\.mlp'.*not finite"):
        added(good, None, "fit", torch.full((1, 2, 2), float("inf")))
