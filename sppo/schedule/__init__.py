"""The schedule as data: built from a plan, checked, and simulated."""

from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.cost_table import PartCosts, SliceCosts, unit_costs, unit_slice_costs
from sppo.schedule.dependencies import Schedule, ScheduleError
from sppo.schedule.instructions import Instruction, Op, parse_instruction
from sppo.schedule.simulate import simulate
from sppo.schedule.simulation import Cause, Event, Simulation, Wait

__all__ = [
    "Cause",
    "Event",
    "Instruction",
    "Op",
    "PartCosts",
    "Schedule",
    "ScheduleError",
    "Simulation",
    "SliceCosts",
    "Wait",
    "build_schedule",
    "check_schedule",
    "parse_instruction",
    "simulate",
    "unit_costs",
    "unit_slice_costs",
]
