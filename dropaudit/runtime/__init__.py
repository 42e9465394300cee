"""The half that knows torch. `trace`, `statistics` and `judge` do not import it."""
