"""The parts a model is declared from."""
