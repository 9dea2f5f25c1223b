"""What a person types; everything here ends in a call of another room."""
