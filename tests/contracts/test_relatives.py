"""Model types that share a map with others: each is built as the map's example is, and the laws are tried on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel

from optimum_grail import check_map
from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.architectures._tiny import seeded
from optimum_grail.core.spec import ArchitectureSpec
from optimum_grail.models.hook import install
from optimum_grail.models.resolve import resolve

install()
RELATIVES = [(name, spec) for spec in ARCHITECTURES.specs() if spec.example for name in spec.model_types[1:]]
OWN = {"model_type", "architectures", "transformers_version", "auto_map", "layer_types"}
"""What a config says of its class, or makes up from the rest."""


def like(name: str, example: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A function that builds the bare model of this type with the config values of ``example`` that its config has."""
    kind = CONFIG_MAPPING[name]
    fields, given = set(kind().to_dict()) - OWN, example().config.to_dict()
    config = kind(**{field: value for field, value in given.items() if field in fields})
    return lambda: seeded(lambda: AutoModel.from_config(config))


@pytest.mark.parametrize(("name", "spec"), RELATIVES, ids=[name for name, _ in RELATIVES])
def test_the_map_of_one_fits_the_other(name: str, spec: ArchitectureSpec) -> None:
    assert spec.example is not None
    found = check_map(replace(spec, model_types=(name,), example=like(name, spec.example)))
    layout = resolve(spec.example())
    assert set(found.groups) == {layout.specs[group.name].name for group in layout.groups}
