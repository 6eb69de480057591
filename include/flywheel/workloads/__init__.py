"""What a task is: its prompt, classes, records and labels, and the names of its metrics."""
