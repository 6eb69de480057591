"""The champion over many texts, without a service: in a notebook, over a file, point in time."""
