"""Measured claims: each module measures one, beside a peer on the same data, and prints one JSON object."""
