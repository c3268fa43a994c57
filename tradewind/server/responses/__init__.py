"""OpenAI's Responses: items in, items out, whole or as events, and kept for a while."""
