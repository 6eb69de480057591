"""Who goes into production: the statistics of a choice, and what a person has decided."""
