"""What a step sees: the data sets of a run, endless batches of them, restyled and augmented."""
