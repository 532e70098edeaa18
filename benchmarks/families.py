"""What each family of models can lose: every registered map, tried on its tiny example.

python benchmarks/families.py

writes ``benchmarks/results/families.json``, from which ``families_tables.py`` makes the page.
"""

from __future__ import annotations

from typing import Any

import transformers
from _common import environment, write_results

from optimum_grail import check_map
from optimum_grail.architectures import ARCHITECTURES
from optimum_grail.core.spec import ArchitectureSpec, Conv, ExpertChannels, Experts, GroupSpec, Heads, SharedChannels
from optimum_grail.models.hook import install


def kind_of(group: GroupSpec) -> str:
    """``"heads"``, ``"mlp"``, ``"conv"``, ``"experts"`` or ``"expert-channels"``."""
    kinds: dict[type, str] = {
        Heads: "heads",
        Conv: "conv",
        Experts: "experts",
        ExpertChannels: "expert-channels",
        SharedChannels: "expert-channels",
    }
    return kinds.get(type(group), "mlp")


def tried(spec: ArchitectureSpec) -> dict[str, Any]:
    """What :func:`check_map` found out on the example of ``spec``, and what the map says besides."""
    report = check_map(spec)
    found = [group for group in spec.groups if group.name in report.groups]
    return {
        "example": type(spec.example()).__name__ if spec.example else None,
        "groups": dict(report.groups),
        "standalone": list(report.standalone),
        "inexact": list(report.inexact),
        "uniform": sorted({group.name for group in found if not isinstance(group, Conv) and group.uniform}),
        "kinds": {group.name: kind_of(group) for group in found},
        "depth": spec.depth_field is not None,
        "dimensions": dimensions(spec),
        "impossible": dict(spec.impossible),
    }


def dimensions(spec: ArchitectureSpec) -> dict[str, str]:
    """Name of every declaration of heads to why they cannot shrink inside; empty where they can, which is tried too."""
    why = "its map does not say how its positions turn the dimensions"
    return {group.name: "" if group.rotary else group.rigid or why for group in spec.groups if isinstance(group, Heads)}


def main() -> None:
    """Try every map and write the results."""
    install()
    transformers.logging.disable_progress_bar()
    families = {spec.model_types[0]: tried(spec) for spec in ARCHITECTURES.specs()}
    served = {name: spec.model_types[0] for name, spec in ARCHITECTURES}
    write_results("families", {**environment(), "served": served, "families": families})
    print(f"{len(served)} model types, {len(families)} maps")


if __name__ == "__main__":
    main()
