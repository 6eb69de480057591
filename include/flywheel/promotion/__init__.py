"""Whether tonight's candidate shall be in production: what is asked beside its score."""
