"""The loop that joins scheduler and runner, the process it lives in, and its clients."""
