"""What is kept between runs: asked for once, found again, never mistaken for something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimum_grail.architectures.llama import tiny_llama
from optimum_grail.core.groups import StreamFunction
from optimum_grail.core.spec import ArchitectureSpec, Mlp
from optimum_grail.data.batches import LABELS, make_batches
from optimum_grail.errors import OutputError
from optimum_grail.models.resolve import resolve
from optimum_grail.report.progress import Silent
from optimum_grail.survey.cache import StatisticsCache, dependencies, fingerprint
from optimum_grail.survey.survey import Survey
from optimum_grail.sweep import Sweep, cells

ROWS = [{"x": row} for row in torch.randn(12, 6, generator=torch.Generator().manual_seed(0))]


class Counter:
    """Makes tensors and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"a": torch.arange(3) * self.calls, "b": torch.ones(2, 2, dtype=torch.float64)}


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_in_memory_things_are_computed_once() -> None:
    cache, make = StatisticsCache.of(model()), Counter()
    first, again = (cache.get("survey", {"data": "x"}, make) for _ in range(2))
    assert make.calls == 1 and first is again
    cache.get("survey", {"data": "y"}, make)
    cache.get("gradients", {"data": "x"}, make)
    assert make.calls == 3


def test_the_next_process_finds_them_in_the_folder(tmp_path: Path) -> None:
    make = Counter()
    for _ in range(2):
        found = StatisticsCache.of(model(), tmp_path / "stats").get("survey", {"data": "x"}, make)
        assert torch.equal(found["a"], torch.arange(3)) and found["b"].dtype == torch.float64
    assert make.calls == 1
    StatisticsCache.of(model(1), tmp_path / "stats").get("survey", {"data": "x"}, make)
    assert make.calls == 2, "another model has other statistics"
    assert {path.suffix for path in (tmp_path / "stats").iterdir()} == {".safetensors"}


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_file_is_written_anew(damage: str, tmp_path: Path) -> None:
    make = Counter()
    StatisticsCache.of(model(), tmp_path).get("survey", {"data": "x"}, make)
    StatisticsCache.of(model(), tmp_path).get("survey", {"data": "y"}, make)
    one, other = tmp_path.iterdir()
    one.write_bytes(one.read_bytes()[:40] if damage == "truncated" else other.read_bytes())
    for data in ("x", "y"):
        StatisticsCache.of(model(), tmp_path).get("survey", {"data": data}, make)
    assert make.calls == 3
    for data in ("x", "y"):
        StatisticsCache.of(model(), tmp_path).get("survey", {"data": data}, make)
    assert make.calls == 3


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*--stats-cache"):
        StatisticsCache.of(model(), tmp_path / "file")


def test_the_fingerprint_sees_values_shapes_and_types() -> None:
    seen = {
        fingerprint(item)
        for item in (
            model(),
            model(1),
            model().double(),
            nn.Linear(2, 3),
            nn.Linear(3, 2, bias=False),
            nn.BatchNorm2d(2),
        )
    }
    assert len(seen) == 6 and fingerprint(model()) == fingerprint(model())
    halves = [model().to(torch.bfloat16) for _ in range(2)]
    assert fingerprint(halves[0]) == fingerprint(halves[1])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def doubled(block: nn.Module, entering: Tensor, seen: Any) -> Tensor:
    return 2 * entering


def spec(stream: Any = "@block", **changes: Any) -> ArchitectureSpec:
    return ArchitectureSpec(("net",), ("blocks.*",), (Mlp(("up",), "down", stream),), main_input="image", **changes)


MAPS: list[Callable[[], ArchitectureSpec]] = [
    spec,
    lambda: spec("down:output"),
    lambda: spec(StreamFunction(doubled)),
    lambda: spec(StreamFunction(lambda block, entering, seen: entering)),
    lambda: replace(spec(), groups=(Mlp(("up",), "down", "@block", name="other"),)),
]


def test_two_maps_share_nothing() -> None:
    batches = make_batches(ROWS, batch_size=3)
    found = [dependencies(net := Net(), resolve(net, make()), batches) for make in MAPS + MAPS]
    keys = [str(each) for each in found]
    assert len(set(keys)) == len(MAPS) and keys[: len(MAPS)] == keys[len(MAPS) :]


def test_a_sweep_with_another_map_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two maps that give the same groups: nothing but the map tells where the stream is seen."""
    surveys, run = [], Survey.run

    def counted(self: Survey) -> Any:
        surveys.append(self)
        return run(self)

    monkeypatch.setattr(Survey, "run", counted)
    planned = cells(["grail-plus"], [0.3], {"num_samples": 12, "batch_size": 3})
    for stream in ("@block", "@block", "down:output"):
        Sweep(Net(), dataset=ROWS, spec=spec(stream), stats_cache=tmp_path).run(planned)
    assert len(surveys) == 2


def test_everything_that_decides_is_told_apart() -> None:
    net = Net()
    layout = resolve(net, spec())

    def told(rows: list[dict[str, Tensor]] = ROWS, size: int = 3, model: nn.Module = net) -> str:
        return str(dependencies(model, layout, make_batches(rows, batch_size=size)))

    labelled = [{**row, LABELS: torch.tensor(index % 3)} for index, row in enumerate(ROWS)]
    others = [told(ROWS[:-1]), told(ROWS[::-1]), told(size=2), told(labelled), told(model=Net().double())]
    others.append(str(dependencies(net, layout, make_batches(ROWS, batch_size=3, source=1))))
    assert len({told(), *others}) == 7 and told() == told([dict(row) for row in ROWS])


def test_surveys_differ_by_their_signals_and_not_by_where_streams_are() -> None:
    model = tiny_llama()
    layout, batches = resolve(model), make_batches([{"input_ids": torch.arange(9)}] * 6, batch_size=3)

    def told(*needs: str, **options: Any) -> str:
        return str(Survey(model, layout, batches, Silent(), frozenset(needs), **options).depends)

    assert told("curves") == told("curves", offload=True) == told("curves", "gram")
    assert len({told("curves"), told("bent-curves"), told("curves", "drops"), told("curves", seed=1)}) == 4
    assert "processor" in told("latency") and "processor" not in told("curves"), "times are those of a machine"


def test_the_fingerprint_sees_what_weights_do_not_show() -> None:
    """Settings of modules, the configuration, and the code of the classes."""

    class Other(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return -super().forward(input)

    twin = Other(3, 2)
    twin.load_state_dict(model().state_dict())
    assert fingerprint(twin) != fingerprint(model())
    norms = [nn.LayerNorm(4, eps=eps) for eps in (1e-5, 1e-6)]
    assert fingerprint(norms[0]) != fingerprint(norms[1])
    llamas = [tiny_llama() for _ in range(4)]
    llamas[1].config.rms_norm_eps = 0.5
    llamas[2].config._attn_implementation = "eager"
    llamas[3].config._name_or_path = "elsewhere"
    found = [fingerprint(each) for each in llamas]
    assert len(set(found[:3])) == 3 and found[0] == found[3]
