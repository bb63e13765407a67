"""Cases for 3D Slicer: CT, segments and both doses as files that open in one step."""
