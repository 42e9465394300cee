"""What a program says beyond one file: facts per file, joined into a project. Imports no libcst."""
