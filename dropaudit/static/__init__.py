"""The half that knows libcst."""
