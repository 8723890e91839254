"""What a network computes at one input, and how far that can be from real arithmetic."""
