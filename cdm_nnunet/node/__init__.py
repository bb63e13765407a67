"""A DICOM node: takes patients over the network or from a folder, predicts, and sends the RTDOSE on."""
