"""DICOM-RT: CT, structure sets, plans and doses in; doses out (pydicom)."""
