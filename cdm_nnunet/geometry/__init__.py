"""Positions of voxels and contours in the patient, masks and DVHs: only NumPy and SciPy, no DICOM."""
