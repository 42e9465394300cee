"""What tests may use of pytest's own plugins; pytest reads this only at the root."""

pytest_plugins = ["pytester"]
