"""From records to a dataset: the sample's own text, near-duplicates, splits and their order."""
