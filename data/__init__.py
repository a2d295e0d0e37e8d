"""Facts: what an image with faces is, where it comes from and how it is stored."""
