"""Scores of students with their intervals, the judge, and what is chosen among candidates."""
