"""An LLM that rates how well a student's answers agree with the teacher's (docs/workloads.md)."""
