"""What a trained network makes of pictures: more of what its layers look for, or one in the style of another."""
