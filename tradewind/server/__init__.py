"""The HTTP server: OpenAI's routes, health and metrics, over one engine."""
