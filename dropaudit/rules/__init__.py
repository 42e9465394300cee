"""The catalogue: one defect, one file. The file name is the rule's name."""
