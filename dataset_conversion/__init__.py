"""From a source of patients to a raw nnU-Net data set; one module per source."""
