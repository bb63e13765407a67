"""Studies: several trainings of one data set as one command, from training to comparison."""
