"""Ways to fuse the levels of a pyramid, and FPN with them."""
