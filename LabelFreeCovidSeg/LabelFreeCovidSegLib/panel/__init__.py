"""What the Slicer module is made of. Files here may import qt and slicer."""
