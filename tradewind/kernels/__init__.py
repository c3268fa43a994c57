"""One folder per op: the contract, a torch reference that is the truth, and faster implementations."""
