"""The seven stages, one plain function each, and the pipeline that has them in order."""
