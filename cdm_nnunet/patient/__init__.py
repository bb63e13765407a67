"""A new patient's record: what the predicted dose means for the template's goals (``docs/new_patient.md``)."""
