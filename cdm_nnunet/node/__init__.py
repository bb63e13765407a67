"""A DICOM node: receives patients over the network or from a folder, predicts, and forwards the RTDOSE."""
