"""Values that every part of GPVE shares: kinds of guests, reasons, and columns of guests and nodes."""

from gpve.model.columns import FOREVER, Guests, Nodes, PowerCurve, Usage
from gpve.model.errors import InputError
from gpve.model.kinds import KINDS, Kind
from gpve.model.reasons import Reason

__all__ = ["FOREVER", "KINDS", "Guests", "InputError", "Kind", "Nodes", "PowerCurve", "Reason", "Usage"]
