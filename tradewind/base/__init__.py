"""What every floor may use: typed errors, the clock, logging, units. No torch, no numpy."""
