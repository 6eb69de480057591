"""An event study on made headlines and made prices: point in time beside look-ahead."""
