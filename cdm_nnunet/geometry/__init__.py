"""Where voxels and contours lie in the patient, and what follows from that: NumPy and SciPy alone, no DICOM."""
