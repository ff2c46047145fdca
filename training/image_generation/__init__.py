"""Image generation: a GAN, what judges it, and the text that says what to draw."""
