"""Cases for 3D Slicer: CT, segments and both doses as files that it opens in one step."""
