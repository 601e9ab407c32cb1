"""Bottom-ups, and the pyramid of bottom-up, neck and fusion as one backbone."""
