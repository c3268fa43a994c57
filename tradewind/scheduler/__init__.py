"""Who computes what in the next step. No torch."""

from tradewind.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
