"""The stage that lays a pattern of zeros on what the fit has left."""

from __future__ import annotations

from torch import nn

from optimum_grail.core.plan import Plan
from optimum_grail.data.batches import CalibrationData
from optimum_grail.data.portion import Portion
from optimum_grail.errors import ConfigError
from optimum_grail.fit.patterning import PatternRun, check_patternable
from optimum_grail.models.layout import Layout
from optimum_grail.models.resolve import resolve
from optimum_grail.pipeline.setup import Setup
from optimum_grail.pipeline.stages import Prepared
from optimum_grail.widths.allocate import Widths


def check_pattern(model: nn.Module, layout: Layout, setup: Setup, data: CalibrationData | None = None) -> None:
    """Refuse a pattern that cannot be laid, before anything is measured.

    Args:
        model: in eval mode.
        layout: its stacks.
        setup: what the run is told.
        data: the calibration data, once it is there.

    Raises:
        ArchitectureError: as :func:`optimum_grail.fit.patterning.check_patternable`.
    """
    if setup.config.pattern is not None:
        rows = None if data is None else Portion.of(data.batches)
        whole = resolve(model, setup.spec, experts=True)
        check_patternable(model, layout, whole, rows, shared=setup.ranks.count > 1)


def compressed_(ready: Prepared, data: CalibrationData | None, widths: Widths) -> Plan:
    """Take away what the widths say and lay the pattern that is asked for.

    Raises:
        ConfigError: a pattern, and methods that read no data.
    """
    asked = ready.setup.config.pattern_method()
    if asked is None:
        return ready.fit_(data, widths)
    if data is None:
        raise ConfigError(
            f"pattern={ready.setup.config.pattern} needs calibration data, and preset {ready.setup.config.preset!r} "
            "reads none. Name another preset."
        )
    plan = Plan(()) if ready.request[0].idle else ready.fit_(data, widths)
    with ready.journal.timed("pattern"):
        progress = ready.setup.progress
        progress.start(
            sum(len(stack.blocks) for stack in ready.layout.stacks) - len(widths.dropped), "laying the pattern"
        )
        what = (ready.model, ready.layout, *asked, Portion.of(data.batches), progress)
        found = PatternRun(*what, widths.dropped, ready.offload).run_()
        progress.finish()
    selector = str(ready.setup.config.to_dict()["pattern_selector"])
    ready.journal.notes.append(found.note(str(ready.setup.config.pattern), selector))
    return plan
