"""Anthropic's routes: their messages as conversations, their answers as content blocks."""
