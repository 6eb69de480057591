"""What the project makes for itself: dated headlines with labels, and three small students."""
