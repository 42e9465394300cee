"""One format a file; `ls` is the list."""
