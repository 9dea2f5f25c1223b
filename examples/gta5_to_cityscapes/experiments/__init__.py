"""Several runs together: which there are, in which order, in how many processes, on which city."""
