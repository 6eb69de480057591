"""`flywheel ...`: one module a group of commands."""
