"""flywheel: distil a teacher LLM into small students, night after night."""
