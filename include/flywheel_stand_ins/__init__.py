"""Stand-ins for what the demo and the tests have no real one of: a teacher, a judge, NeMo. In no image."""
