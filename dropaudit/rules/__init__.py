"""One defect, one file; nowhere a list to edit."""
