"""The half that reads source code. Imports libcst, never torch."""
