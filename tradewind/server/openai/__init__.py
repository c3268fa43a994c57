"""OpenAI's routes: requests in, answers out, whole or as a stream of events."""
